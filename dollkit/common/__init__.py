"""What every stage may use: errors, paths, findings, devices, statistics, and names of the arms
(where weights come from before fine-tuning) and of the tunings (what is trained)."""

OWN_LABELS = ("gradcam", "single", "plain")
"""Pre-trained on label sets of their own, see `dollkit.pretraining`."""

PRETRAINED = ("doll", "shuffled", "prior", *OWN_LABELS, "truth")
"""Pre-trained end to end, in the order of the tables."""

ARMS = ("random", "imagenet", "classifier", *PRETRAINED)

OPTIONAL = ("single", "plain")
"""They take one step of the labels away each; tables do not miss them where they were not run."""

TUNINGS = ("full", "head", "adapter", "lora", "bn", "bias")
"""What fine-tuning trains, in the order of the tables; see `dollkit.training.adapters`."""
