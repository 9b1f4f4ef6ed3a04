"""What every stage may use: errors, paths, findings, devices, statistics, and names of the arms
(where weights come from before fine-tuning) and of the tunings (what is trained)."""

from dollkit.common.errors import InputError

OWN_LABELS = ("gradcam", "single", "plain")
"""Pre-trained on label sets of their own, see `dollkit.pretraining`."""

OTHER_START = {
    "doll_imagenet": ("doll", "imagenet"),
    "doll_random": ("doll", "random"),
    "shuffled_random": ("shuffled", "random"),
}
"""Arms that take the labels of another arm, and what their networks start from."""

PRETRAINED = ("doll", "shuffled", "prior", *OWN_LABELS, "truth", *OTHER_START)
"""Pre-trained end to end, in the order of the tables."""

ARMS = ("random", "imagenet", "classifier", *PRETRAINED)

OPTIONAL = ("single", "plain", *OTHER_START)
"""Tables do not miss them where they were not run."""

TUNINGS = ("full", "head", "adapter", "lora", "bn", "bias")
"""What fine-tuning trains, in the order of the tables; see `dollkit.training.adapters`."""


def tuning_of(name: str, parameter: str = "tuning") -> tuple[str, int]:
    """One of `TUNINGS` and its size (0: the default), from a name such as ``lora16``.

    The size is LoRA's rank, or the number that an adapter's width is divided by.
    """
    kind = name.rstrip("0123456789")
    size = name.removeprefix(kind)
    if kind not in TUNINGS or (size and (kind not in ("adapter", "lora") or size[0] == "0")):
        raise InputError(
            f"parameter {parameter!r} names {name!r}: use some of {', '.join(TUNINGS)}, or adapter "
            "and lora with a size, such as lora16"
        )
    return kind, int(size or 0)
