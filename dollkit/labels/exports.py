"""One call for all formats: into a new folder, whole or not at all, with its card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS
from dollkit.data.store import Store
from dollkit.data.store_writer import unwritable
from dollkit.labels import export_formats, export_others
from dollkit.labels.card import card
from dollkit.labels.export_formats import Selection
from dollkit.labels.store import LabelStore

# The label set in other ecosystems' formats: COCO, PNG masks, nnU-Net v2, parquet.


FORMATS: dict[str, Callable[[Selection, Path], str]] = {
    "coco": export_formats.write_coco,
    "png": export_formats.write_png_labels,
    "nnunet": export_others.write_nnunet,
    "parquet": export_others.write_parquet,
}


def export(
    store: LabelStore,
    out: Path | str,
    to: str,
    *,
    findings: Sequence[str] = FINDINGS,
    films: Store | None = None,
    negatives: bool = False,
) -> Path:
    """Write a label store in another format.

    Args:
        store: the label store.
        out: new or empty folder; it gets the data set and its card, ``README.md``.
        to: one of `FORMATS`.
        findings: only labels of these.
        films: the film store. With it film pixels are written too: most data sets may not be
            passed on, so this is never done unasked.
        negatives: for ``nnunet``: labelled films without a finding go into its data set as all
            background. Uncertain ones do not.

    Returns:
        `out`.
    """
    out = Path(out)
    if to not in FORMATS:
        raise InputError(f"format {to!r}: use one of {', '.join(FORMATS)}")
    if negatives and (to != "nnunet" or films is None):
        raise InputError("--negatives goes with --to nnunet and --films: leave it out")
    chosen = Selection(store, tuple(findings), films, negatives)
    part = out.with_name(out.name + ".part")
    try:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(f"{out}: not an empty folder: choose a new one")
        if part.exists():  # an export that was stopped
            shutil.rmtree(part)
        part.mkdir(parents=True)
        section = FORMATS[to](chosen, part)
        listed = []
        if to == "parquet":
            listed = [(split, f"data/{split}-*") for split in export_others.splits(chosen)]
        text = card(store, section, listed, chosen.findings, films is not None)
        (part / "README.md").write_text(text, encoding="utf-8")
        if out.exists():
            out.rmdir()
        part.replace(out)
    except OSError as error:
        raise unwritable(out, error) from None
    return out
