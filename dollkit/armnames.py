"""Names of the arms: where a network's weights come from before fine-tuning."""

from __future__ import annotations

OWN_LABELS = ("gradcam", "single", "plain")
"""Pre-trained on label sets of their own, see `dollkit.armlabels`."""

PRETRAINED = ("doll", "shuffled", "prior", *OWN_LABELS, "truth")
"""Pre-trained end to end, in the order of the tables."""

ARMS = ("random", "imagenet", "classifier", *PRETRAINED)

OPTIONAL = ("single", "plain")
"""They take one step of the labels away each; tables do not miss them where they were not run."""
