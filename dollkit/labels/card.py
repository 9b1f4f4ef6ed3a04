"""The dataset card of a label store: Markdown with front matter, written from the store alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
import yaml

from dollkit.common.findings import FINDINGS
from dollkit.labels.store import LabelStore
from dollkit.labels.summary import LARGE, by_finding, facts, number, percent, poor_from

SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
)
"""Size classes of the Hugging Face Hub, by number of rows."""

NOTABLE = 0.05
"""Share of a finding's labels from which a weakness is worth a line."""

USE = """\
## Intended use

Weak labels to pre-train segmentation networks of chest radiographs, which are then fine-tuned on
masks that people drew; and research on explanations.

Not for: diagnosis or any decision about a patient; measuring the size of a finding; a reference
to score other methods against. A label shows where classifiers saw evidence for a finding, which
need not be where the finding is. Only positive findings have one: a film without a label of a
finding may still show it, where the report is silent or wrong.

## Values

0 background, 1 finding, 255 ignore: between the two thresholds, left out of any loss or score.
Labels of different findings of one film overlap."""

LICENCE = """\
## Licence

The labels were computed from films, and inherit the terms of the data set that the films are
from: read them before passing labels on. Cite that data set too."""

NO_FILMS = "They hold no film pixels."
WITH_FILMS = "**This export holds film pixels too**: most data sets may not be passed on."


def card(
    store: LabelStore,
    files: str = "",
    data_files: Sequence[tuple[str, str]] = (),
    findings: Sequence[str] = FINDINGS,
    films: bool = False,
) -> str:
    """Dataset card: counts, how it was made, errors, known failures, licence, use.

    Args:
        store: the label store.
        files: a section on the files of an export, with its heading.
        data_files: split and path pattern of each part, for the Hub's viewer.
        findings: those that the export holds.
        films: whether it holds film pixels.

    Returns:
        Markdown that starts with YAML front matter as the Hugging Face Hub reads it.
    """
    table = by_finding(store, findings)
    labels, kinds = int(table["labels"]["all"]), len(table) - 1
    labelled = store.pairs["row"][store.pairs["finding"].isin(findings)].nunique()
    parts = [
        "---\n" + _front(labels, data_files) + "---",
        "# DoLL labels of chest radiographs",
        f"{labels:,} segmentation labels of {kinds} finding{'s' * (kinds > 1)} on "
        f"{labelled:,} films, {store.size} x {store.size} pixels, distilled from explanations of "
        f"{_classifiers(store)}. No person drew or checked them.",
        "## Counts",
        _counts(table),
        "Shares are of the film's pixels, medians over labels that are not all ignored; the error "
        "is the completeness error of the explanation (worst classifier), by quantile.",
        "## How the labels were made",
        "\n".join(f"- {what}: `{value}`" for what, value in facts(store)),
        "Digests are SHA-256, of each classifier's weights and of the film store's description.",
        "## Known failures",
        "\n".join(f"- {line}" for line in failures(table, poor_from(store))),
        USE,
        f"{LICENCE} {WITH_FILMS if films else NO_FILMS}",
    ]
    return "\n\n".join([*parts, *([files] if files else [])]) + "\n"


def _classifiers(store: LabelStore) -> str:
    n = len(store.classifiers)
    return f"{n} classifier{'s' * (n != 1)}" if n else "classifiers that were not noted"


def _front(n: int, data_files: Sequence[tuple[str, str]]) -> str:
    front: dict[str, Any] = {
        "pretty_name": "DoLL labels of chest radiographs",
        "license": "other",
        "license_name": "as-the-films",
        "task_categories": ["image-segmentation"],
        "tags": ["medical", "chest-x-ray", "weak-supervision", "explainability"],
        "size_categories": [next((name for top, name in SIZES if n < top), "1M<n<10M")],
    }
    if data_files:
        listed = [{"split": split, "path": path} for split, path in data_files]
        front["configs"] = [{"config_name": "default", "data_files": listed}]
    return yaml.safe_dump(front, sort_keys=False)


def _counts(table: pd.DataFrame) -> str:
    heads = ("finding", "labels", "area", "ignored", "error 50 %", "90 %", "99 %")
    out = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, row in table.iterrows():
        cells = [str(name), f"{int(row['labels']):,}"]
        cells += [percent(float(row[c])) for c in ("area", "ignored")]
        cells += [number(float(row[c])) for c in ("error50", "error90", "error99")]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out)


def failures(table: pd.DataFrame, poor: float) -> list[str]:
    """What is weak about the labels, as the numbers of `by_finding` say; never empty."""
    found = list(_failures(table, poor))
    return found or ["None of the shares below a line is drawn at was passed; no mask checked it."]


def _failures(table: pd.DataFrame, poor: float) -> Iterator[str]:
    kinds = (
        ("poor", f"completeness error above {poor:g}: the map leaves out, or adds, such a share"),
        ("unsettled", "not settled: the explanation was still changing when its steps ran out"),
        ("unclear", "all ignored: of constant or unsettled maps; nothing is learnt from them"),
        ("empty", "empty: no pixel reached the upper threshold"),
        ("large", f"more than {percent(LARGE)} of the film: the map did not single anything out"),
        ("uncalled", "the classifiers on average do not call the finding: the map explains a no"),
    )
    for column, meaning in kinds:
        shares = table[column].drop("all")
        worst = shares[shares >= NOTABLE].sort_values(ascending=False)
        if len(worst):
            listed = ", ".join(f"{name} {percent(float(v))}" for name, v in worst.items())
            whole = percent(float(table[column]["all"]))
            yield f"{meaning[0].upper()}{meaning[1:]}. {whole} of all labels; {listed}."
    if table["error50"].isna().all():
        yield "No completeness error is known: the explainer has none, so nothing bounds its error."
    rare = table["labels"].drop("all")
    rare = rare[rare < 100]
    if len(rare):
        yield f"Fewer than 100 labels, too few to say much: {', '.join(map(str, rare.index))}."
    if "No Finding" in table.index:
        yield (
            "No Finding has no place in a film; its labels show what speaks for a normal film. "
            "Leave them out where a mask of something is needed."
        )
