"""Tests, and how they compare tensors: weights to the bit, outputs by a share of their size."""

from __future__ import annotations

from collections.abc import Mapping

import torch


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest distance of two rows, as a share of the row's size in `b` (Euclidean norms).

    Sums that are rounded in another order (threads, instructions, memory format) move float32
    outputs by some 1e-6 of their size, whatever that is; NaN in either is infinitely far.
    """
    gap = (a.double() - b.double()).flatten(1).norm(dim=1)
    share = (gap / b.double().flatten(1).norm(dim=1)).where(gap != 0, 0.0)
    return float(share.nan_to_num(torch.inf).max())


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Whether two states have the same tensors under the same names, to the bit."""
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())
