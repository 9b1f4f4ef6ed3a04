"""What a data set is to the rest: where it lies, how it is read, what its papers say it holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dollkit.common.errors import InputError
from dollkit.data.film_table import FilmTable

STORES: tuple[str, ...] = ("films", "lungs", "infection", "organs")
"""Stores of a run: films with findings, and one per downstream task."""


@dataclass(frozen=True)
class DataSet:
    """One data set that can be read in its original layout.

    Attributes:
        name: as parameters and commands give it.
        title: for people.
        stores: which of `STORES` it can give.
        find: its root at or just below a folder, by a cheap look; None if it is not there.
        read: ``read(root, *, skip_bad=False, **options)`` -> table by store name.
        documented: counts that its authors state, by the names that `FilmTable.facts` uses.
        options: option -> allowed values, the default first.
        tree: one line: what marks its folder, for the message when it is not found.
        licence, cite, size: for ``python -m dollkit.data list``.
    """

    name: str
    title: str
    stores: tuple[str, ...]
    find: Callable[[Path], Path | None]
    read: Callable[..., dict[str, FilmTable]]
    documented: Mapping[str, int]
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tree: str = ""
    licence: str = ""
    cite: str = ""
    size: str = ""

    def locate(self, folder: Path) -> Path:
        """Root of the data set at or below `folder`; `InputError` if it is not there."""
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder: give the folder of the {self.title} data")
        root = self.find(folder)
        if root is None:
            raise InputError(
                f"{folder}: no {self.title} here: expected {self.tree}; data/README.md shows the "
                "tree"
            )
        return root

    def tables(
        self,
        folder: Path,
        options: Mapping[str, str] | None = None,
        skip_bad: bool = False,
        **more: Any,
    ) -> dict[str, FilmTable]:
        """Tables of the data set at or below `folder`, by store name.

        Args:
            folder: where it lies.
            options: see the attribute.
            skip_bad: note wrong rows in the tables' ``bad`` instead of stopping at the first.
            more: what else its reader takes.
        """
        for option, value in (options or {}).items():
            if option not in self.options:
                known = ", ".join(self.options) or "none"
                raise InputError(f"data set {self.name} has no option {option!r}; it has: {known}")
            if value not in self.options[option]:
                raise InputError(
                    f"option {self.name}.{option} is {value!r}: use one of "
                    f"{', '.join(self.options[option])}"
                )
        return self.read(self.locate(folder), skip_bad=skip_bad, **(options or {}), **more)


def first_with(folder: Path, marks: tuple[str, ...], below: tuple[str, ...] = ()) -> Path | None:
    """`folder`, or a sub-folder `below` names, that holds every one of `marks`; None if neither."""
    for root in (folder, *(folder / name for name in below)):
        if all((root / mark).exists() for mark in marks):
            return root
    return None
