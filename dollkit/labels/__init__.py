"""DoLL labels: how they come out of explanations, and the label set on disk.

``labels.open(path)`` gives a label set's arrays in one line, and needs no torch: the steps that
make labels are imported when they are first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dollkit.labels.store import LabelStore, open

if TYPE_CHECKING:
    from dollkit.labels.steps import LabelSettings, distil, scale

__all__ = ["LabelSettings", "LabelStore", "distil", "open", "scale"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dollkit.labels import steps

    return getattr(steps, name)
