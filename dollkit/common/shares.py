"""Shares of one stage's work, for several processes or the jobs of a cluster.

A process with a share does what it can do alone (shards of labels, training runs of the grid),
leaves it on disk, and ends by `Done`; the stage itself then finds it all there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from dollkit.common.errors import InputError

VARIABLE = "DOLLKIT_PART"


class Done(Exception):
    """The share of this process is on disk: no fault, but the end of its notebook."""


@dataclass(frozen=True)
class Part:
    """One process's share: part `number` (from 1) of `count`."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """``1/4`` is the first of four; anything else is an `InputError`."""
        number, _, count = text.partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise InputError(f"parameter 'part' is {text!r}: use K/N with K from 1 to N, such as 1/4")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """As in a file name."""
        return f"{self.number}-of-{self.count}"

    def takes(self, index: int) -> bool:
        """Whether it does piece `index` (from 0): every `count`-th one, so that all are alike."""
        return index % self.count == self.number - 1

    def end(self) -> None:
        """Leave: raises `Done`."""
        raise Done(f"part {self} is done")


def mine() -> Part | None:
    """Share of this process; None: all of it."""
    text = os.environ.get(VARIABLE)
    return Part.parse(text) if text else None
