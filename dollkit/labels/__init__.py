"""DoLL labels: how they come out of explanations, and the label set on disk.

``labels.open(path)`` gives a label set's arrays in one line.
"""

from dollkit.labels.steps import (
    Distil,
    FloatMaps,
    boost,
    consensus,
    distil,
    scale,
    threshold,
    to_label,
)
from dollkit.labels.store import LabelStore, open

__all__ = [
    "Distil",
    "FloatMaps",
    "LabelStore",
    "boost",
    "consensus",
    "distil",
    "open",
    "scale",
    "threshold",
    "to_label",
]
