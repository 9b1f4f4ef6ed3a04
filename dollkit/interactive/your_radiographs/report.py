"""The report on one's own films: words first, then the rows that they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dollkit.common.findings import PATHOLOGIES
from dollkit.data.images import fit_mask, load_image
from dollkit.data.store import Store
from dollkit.interactive.your_radiographs import predict, verdict
from dollkit.interactive.your_radiographs.compare import LEAST
from dollkit.labels.store import LabelStore
from dollkit.report import in_notebook, style
from dollkit.report.render import display, markdown
from dollkit.report.rows import write_csv

TABLES = ("cases", "contrasts", "curve", "steps", "masks_saved", "classifiers")
FIGURE = "figure_curve"
WARNING = "Research software. Not a medical device, not for clinical use."
NAMES = {
    "n_train": "masks", "against": "DoLL minus", "p_holm": "p (Holm)", "mde": "smallest visible",
    "n_cases": "films", "n_patients": "patients", "n_seeds": "seeds", "arm": "start",
    "miou": "mIoU", "dice": "Dice", "n_from": "from masks", "n_to": "to masks",
}  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """What a report is made from.

    Attributes:
        facts, notes: of `source.Own`.
        cases: per-case rows of the comparison; None if there was none.
        selection: rates tried.
        aurocs: metrics of the classifiers on held-out patients; may be empty.
        settings: what was asked for, by name.
        margin, target: see `advice.advice`.
    """

    facts: Mapping[str, int]
    notes: Sequence[str]
    cases: pd.DataFrame | None
    selection: pd.DataFrame | None
    aurocs: pd.DataFrame
    settings: Mapping[str, object] = field(default_factory=dict)
    margin: float = verdict.MARGIN
    target: float = 0.0


def write(of: Inputs, folder: Path) -> str:
    """Write ``report.md``, its tables (CSV) and the learning curve; return the report's text.

    ``cases.csv`` holds one row per held-out film, class, start, number of masks and seed: its
    film and patient names are the user's own.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Those of an earlier call, which may have compared what this one did not.
    for path in (*(folder / f"{name}.csv" for name in TABLES), *folder.glob(f"{FIGURE}.*")):
        path.unlink(missing_ok=True)
    text = ["# Did DoLL pay on these films?", f"> {WARNING}"]
    if of.cases is None:
        text.append(
            "Nothing was held out (`compare = False`): whether DoLL paid, and how good the "
            "predictions are, cannot be told."
        )
    else:
        text += _compared(of, of.cases, folder)
    text += ["## The films", _list(f"{k}: {v}" for k, v in of.facts.items() if v)]
    if of.notes:
        text.append(_list(of.notes))
    text += _classifiers(of.aurocs, folder)
    text += ["## Settings", _list(f"`{k}`: {v}" for k, v in of.settings.items())]
    page = "\n\n".join(text) + "\n"
    (folder / "report.md").write_text(page, encoding="utf-8", newline="\n")
    return page


def _compared(of: Inputs, cases: pd.DataFrame, folder: Path) -> list[str]:
    table, means = verdict.contrasts(cases, of.margin), verdict.curve(cases)
    walked, equal = verdict.steps(cases), verdict.equal_to(cases, table)
    frames = {"cases": cases, "contrasts": table, "curve": means, "steps": walked}
    for name, frame in {**frames, "masks_saved": equal}.items():
        write_csv(frame, folder / f"{name}.csv")
    drawn = curve_figure(means)
    drawn.save(folder / FIGURE)
    shown = means[["arm", "n_train", "miou", "miou_lo", "miou_hi", "dice", "dice_lo", "dice_hi"]]
    few = verdict.rare(cases)
    left = f"Left out of it, since fewer than {LEAST} patients have them: {', '.join(few)}."
    text = [
        verdict.sentence(table),
        *([left] if set(few) < set(cases["class"]) and few else []),
        "## How many masks?",
        _list(verdict.advice(cases, table, of.margin, of.target)),
        "![Learning curves](figure_curve.png)",
        drawn.caption,
        "## The comparison",
        _table(table.drop(columns=["why", "df", "best"])),
        "Paired differences in mean IoU over the foreground classes, on films of patients that no "
        "network had seen in training; 95 % intervals and p over patients and seeds. With "
        "cross-validation the networks of different folds share training films, so that intervals "
        "are somewhat too narrow. *Smallest visible*: the true effect that this design would have "
        f"found in four of five cases. A gain of {of.margin:g} counts as worth it.",
        _table(shown),
    ]
    edge = _edges(of.selection)
    return text + ([edge] if edge else [])


def _edges(selection: pd.DataFrame | None) -> str:
    """Which chosen rates are the last of their grid; "" if none."""
    if selection is None or selection["lr"].nunique() < 2:
        return ""
    ends = {selection["lr"].min(), selection["lr"].max()}
    at = selection[selection["selected"] & selection["lr"].isin(ends)]
    if at.empty:
        return ""
    which = sorted({f"{a} with {n} masks" for a, n in zip(at["arm"], at["n_train"], strict=True)})
    return (
        "The chosen learning rate is the lowest or highest of its grid in some folds, so that a "
        f"better one may lie beyond: {', '.join(which)}."
    )


def _classifiers(aurocs: pd.DataFrame, folder: Path) -> list[str]:
    text = ["## The classifiers"]
    if aurocs.empty:
        return [*text, "Not judged: no film of held-out patients has both states of a finding."]
    write_csv(aurocs, folder / "classifiers.csv")
    macro = aurocs[aurocs["finding"] == "macro"]
    text.append(
        "AUROC on patients that the classifier did not see (of one that was given trained: on all "
        "films to learn from, if it was not trained on these). Labels made of the explanations "
        "of a classifier near 0.5 are noise."
    )
    low = aurocs[aurocs["finding"].isin(PATHOLOGIES) & (aurocs["auroc_lo"] <= 0.5)]
    shown = macro if len(macro) else aurocs
    text.append(_table(shown[["classifier", "finding", "auroc", "auroc_lo", "auroc_hi", "n"]]))
    if len(low):
        pairs = sorted(set(low["finding"]))
        text.append(f"Not better than chance beyond doubt: {', '.join(pairs)}.")
    return text


def curve_figure(means: pd.DataFrame) -> style.Drawn:
    """Test mIoU against the number of masks, a line per start.

    Args:
        means: from `advice.curve`.
    """
    arms = style.arms_of(means["arm"].unique().tolist())
    with style.context():
        fig = style.canvas(style.COLUMN * 1.3, 2.9)
        ax = fig.subplots()
        for arm in arms:
            line = means[means["arm"] == arm].sort_values("n_train")
            columns = ("n_train", "miou", "miou_lo", "miou_hi")
            style.curve(ax, arm, *(line[k].to_numpy(np.float64) for k in columns), alpha=0.1)
        ticks = sorted(set(means["n_train"]))
        ax.set_xscale("log", base=2)
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
        ax.set_xlabel("training masks")
        ax.set_ylabel("test mIoU")
        ax.grid(axis="y", color="#dddddd", linewidth=0.5)
        style.legend(fig, arms)
    n, seeds = int(means["n_cases"].max()), int(means["n_seeds"].max())
    caption = (
        f"Test mIoU against the number of training masks: mean over {seeds} seeds, {n} held-out "
        "films; bands: 95 % bootstrap intervals over patients, which say nothing of seeds. Each "
        "start and number with the learning rate chosen for it on validation."
    )
    return style.Drawn(fig, means, caption)


def _table(frame: pd.DataFrame) -> str:
    return markdown(display(frame, names=NAMES))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


# Pictures of one's own films: they stay in the folder of the run.


def predictions(films: Path, out: Path, index: pd.DataFrame, side: int = 256, n: int = 8) -> Figure:
    """Films with what was drawn on them (PNG), those that the network was not trained on first.

    Args:
        films, out: as `predict.predict` had them.
        index: what it returned.
        side: of each picture, pixels.
        n: most films.
    """
    order = index.sort_values("trained_on", kind="stable")["file"].unique()
    names: Sequence[str] = order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(int)]
    classes = list(index["class"].unique())
    images, masks = [], []
    for name in dict.fromkeys(names):
        film = predict.read_film(films, name, side)
        own = {r["class"]: r for r in index[index["file"] == name].to_dict("records")}
        images.append(film.grid)
        masks.append([
            fit_mask((load_image(out / own[c]["mask"]) == own[c]["value"]).astype(np.uint8),
                     side, film.height, film.width)
            for c in classes
        ])  # fmt: skip
    titles = [_short(name) for name in dict.fromkeys(names)]
    return in_notebook.films(
        np.stack(images), titles, np.array(masks), classes, columns=4, side=2.3
    )


def labels(store: Store, made: LabelStore, n: int = 6) -> Figure:
    """Films with their DoLL labels, one finding each, the findings in turn."""
    pairs = made.pairs.reset_index(drop=True)
    pairs = pairs[pairs["finding"] != "No Finding"]
    turn = pairs.groupby("finding").cumcount().sort_values(kind="stable").index
    chosen = turn[:n].tolist()
    images = store.images[pairs.loc[chosen, "row"].to_numpy()]
    inside = np.stack([made.label(i) == 1 for i in chosen])[:, None].astype(np.uint8)
    return in_notebook.films(images, pairs.loc[chosen, "finding"].tolist(), inside, side=2.0)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"…{name[-27:]}"
