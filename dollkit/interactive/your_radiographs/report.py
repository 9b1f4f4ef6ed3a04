"""Did DoLL pay on your films? From per-case rows to a verdict in plain words, and its report."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dollkit.common.findings import FINDINGS
from dollkit.common.statistics import crossed_effect, holm, seen_enough, smallest_effect
from dollkit.data.film_table import FilmTable
from dollkit.data.images import fit, fit_mask, load_image
from dollkit.interactive.your_radiographs.read_and_check import Radiographs
from dollkit.interactive.your_radiographs.steps import LEAST
from dollkit.report import in_notebook
from dollkit.report.claims import ALPHA, MIN_SEEDS
from dollkit.report.render import HEADS, display, markdown
from dollkit.report.rows import aligned, difference, write_csv
from dollkit.report.style import ARM_LOOKS
from dollkit.report.tables import at_the_edge, masks_needed, summarise

PAID, NOT, UNKNOWN = "paid", "did not pay", "cannot be told"
MARGIN = 0.01
"""Gain in mIoU below which nobody would pre-train a network; a parameter."""

SPAN = "{effect:+.3f} mIoU [{lo:+.3f}, {hi:+.3f}]"
WARNING = "Research software. Not a medical device, not for clinical use."
SHORTCUT = (
    "**Possibly a shortcut: {}.** How the radiograph was taken, its brightness and its edge alone "
    "predict these findings nearly as well as the classifiers do. The classifiers may have learnt "
    "the ward or the device instead of the disease: do not rely on maps or labels of them."
)
NAMES = HEADS | {
    "n_train": "masks", "against": "DoLL minus", "p_holm": "p (Holm)", "mde": "smallest visible",
    "arm": "start", "dice": "Dice",
}  # fmt: skip


def rare_classes(cases: pd.DataFrame) -> list[str]:
    """Classes that fewer than `LEAST` patients have on the films to judge by."""
    has = cases[cases["tp"] + cases["fn"] > 0]
    enough = has.loc[seen_enough(has["patient_id"], has["class"], LEAST), "class"]
    return sorted(set(cases["class"]) - set(enough))


def contrasts(cases: pd.DataFrame, margin: float = MARGIN) -> pd.DataFrame:
    """DoLL minus every other start, for each number of masks, with a verdict; empty without DoLL.

    Paired over films, seeds and folds (`statistics.crossed`). ``effect`` is in mIoU, positive where
    DoLL is better, ``p_holm`` corrected over the starts of one size, ``mde`` the smallest effect
    that this design finds in four of five cases, ``best`` the mIoU of the better of the two. Rare
    classes do not count, unless all are rare.
    """
    rare = rare_classes(cases)
    if set(rare) < set(cases["class"]):
        cases = cases[~cases["class"].isin(rare)]
    tables = []
    for n, part in cases.groupby("n_train", sort=True):
        arms = dict(list(part.groupby("arm", sort=False)))
        doll = arms.pop("doll", None)
        if doll is None or not arms:
            continue
        rows = []
        for arm, other in arms.items():
            (a, b), _, counts = aligned([doll, other])
            effect = crossed_effect(a - b)
            rows.append({
                "n_train": n, "against": arm, "effect": effect.estimate, "lo": effect.lo,
                "hi": effect.hi, "p": effect.p, "df": effect.df,
                "mde": smallest_effect(effect.se, effect.df), **counts,
                "best": max(a.mean(), b.mean()),
            })  # fmt: skip
        table = pd.DataFrame(rows)
        table.insert(6, "p_holm", holm(table["p"]))
        table[["verdict", "why"]] = [verdict(row, margin) for row in table.to_dict("records")]
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def verdict(row: Mapping[Any, Any], margin: float) -> tuple[str, str]:
    """Verdict on one contrast, and its reason. ``paid``: above zero beyond chance (Holm-adjusted p)
    and the interval reaches the margin; ``did not pay``: the whole interval is below the margin.
    """
    n = f"{row['n_cases']} films of {row['n_patients']} patients and {row['n_seeds']} seeds"
    if row["n_patients"] < LEAST or row["n_seeds"] < MIN_SEEDS or not np.isfinite(row["lo"]):
        least = f"{LEAST} patients and {MIN_SEEDS} seeds are the least"
        return UNKNOWN, f"{n} are too few to tell anything ({least})"
    if row["best"] < margin:
        return UNKNOWN, (
            f"neither start reaches an mIoU of {margin:g}, so that nothing was learnt that could "
            "be compared: look at the masks, and take more steps or other rates"
        )
    if row["hi"] < 0:
        return NOT, "it was worse beyond chance"
    if row["hi"] < margin:
        return NOT, f"a gain of {margin:g} or more is excluded"
    if row["p_holm"] < ALPHA and row["effect"] > 0:
        return PAID, "better beyond chance"
    if row["lo"] > 0:
        return UNKNOWN, "better, but not beyond chance once several starts are compared"
    why = (
        f"{n} leave room for nothing and for a gain of {margin:g}; the smallest effect that this "
        f"design would have found is about {row['mde']:.3f}"
    )
    if row["df"] < row["n_seeds"]:  # Satterthwaite: the seeds' spread outweighs the patients'
        why += "; runs differ more than films do, so that more seeds tell more than more masks"
    return UNKNOWN, why


def headline(table: pd.DataFrame) -> str:
    """The verdicts with the most masks, in one line."""
    if table.empty:
        return f"Did DoLL pay? It {UNKNOWN}: nothing was compared with it"
    main = table[table["n_train"] == table["n_train"].max()]
    looks = {verdict: [ARM_LOOKS[arm].label for arm in part["against"]]
             for verdict, part in main.groupby("verdict")}  # fmt: skip
    said = [f"{v} against {', '.join(looks[v])}" for v in (PAID, NOT, UNKNOWN) if v in looks]
    return f"Did DoLL pay? With {main['n_train'].max()} masks: {'; '.join(said)}"


def sentences(table: pd.DataFrame) -> list[str]:
    """What follows from the contrasts with the most masks."""
    if table.empty:
        return ["Nothing was compared with DoLL: there is no verdict."]
    main = table[table["n_train"] == table["n_train"].max()]
    said = []
    for row in main.to_dict("records"):
        verdict = f"DoLL {row['verdict']}"
        if row["verdict"] == UNKNOWN:
            verdict = f"whether DoLL paid {UNKNOWN}"
        start = f"With {row['n_train']} masks, against the {row['against']} start"
        said.append(f"{start}: {verdict} ({SPAN.format_map(row)}): {row['why']}.")
    word = dict(zip(main["against"], main["verdict"], strict=True))
    if word.get("random") == PAID and word.get("classifier") == NOT:
        said.append(
            "The classifier's backbone alone gives as much: what pays here is having learnt from "
            "your images at all, not the labels made of explanations."
        )
    if word.get("random") == PAID and word.get("shuffled") in (NOT, UNKNOWN):
        said.append(
            "Labels of other images (shuffled) were not shown to be worse, so the gain need not "
            "come from the diagnosis in the labels."
        )
    return said


def advice(cases: pd.DataFrame, table: pd.DataFrame, margin: float = MARGIN) -> list[str]:
    """How many masks are needed, from the learning curves and no further than they reach."""
    means = summarise(cases).pivot(index="n_train", columns="arm", values="miou")
    sizes = [int(n) for n in means.index]
    if "doll" not in means or means["doll"].max() < margin or len(sizes) < 2:
        return [
            f"How many masks are needed {UNKNOWN}: that takes several numbers of them (parameter "
            f"'sizes'), and a DoLL start that reaches an mIoU of {margin:g}."
        ]
    said = []
    paid = table[(table["against"] == "random") & (table["verdict"] == PAID)]
    for n in paid["n_train"]:
        many = masks_needed(np.array(sizes, float), means["random"].to_numpy(), means["doll"][n])
        said.append(
            f"With {n} masks DoLL reaches what the random start needs "
            f"{many.replace('> ', 'more than ')} masks for (read from its curve)."
        )
    doll = cases[cases["arm"] == "doll"]
    gain = difference(*(doll[doll["n_train"] == n] for n in (sizes[-1], sizes[-2])))
    span = SPAN.format(effect=gain.estimate, lo=gain.lo, hi=gain.hi)
    return [*said, f"From {sizes[-2]} to {sizes[-1]} masks the DoLL start gained {span}."]


def write_report(
    folder: Path, yours: Radiographs, cases: pd.DataFrame | None, selection: pd.DataFrame | None,
    aurocs: pd.DataFrame, settings: Mapping[str, object], margin: float = MARGIN,
    doubtful: Sequence[str] = (),
) -> str:  # fmt: skip
    """Write ``report.md`` and its tables (CSV); return the report's text. `cases` and `selection`
    are the comparison's rows, if any; ``cases.csv`` holds the names of your films and patients.
    `doubtful` findings are those of `shortcuts.flagged`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cases", "contrasts", "curve", "classifiers"):
        # An earlier call may have compared what this one did not.
        (folder / f"{name}.csv").unlink(missing_ok=True)
    if cases is None or selection is None:
        said = ["Nothing was held out (`compare = False`), so no image is left to judge on."]
        table = pd.DataFrame()
    else:
        table = contrasts(cases, margin)
        said = _compared(folder, cases, table, selection, margin)
    text = [f"# {headline(table)}", f"> {WARNING}", *said]
    if doubtful:
        text.append(SHORTCUT.format(", ".join(doubtful)))
    text += ["## Your radiographs", _list(f"{k}: {v}" for k, v in yours.facts.items() if v)]
    text += [_list(yours.notes), *_classifiers(folder, aurocs)]
    text += ["## Settings", _list(f"`{k}`: {v}" for k, v in settings.items())]
    page = "\n\n".join(filter(None, text)) + "\n"
    (folder / "report.md").write_text(page, encoding="utf-8", newline="\n")
    return page


def _compared(
    folder: Path, cases: pd.DataFrame, table: pd.DataFrame, selection: pd.DataFrame, margin: float
) -> list[str]:
    means = summarise(cases)
    for name, frame in {"cases": cases, "contrasts": table, "curve": means}.items():
        write_csv(frame, folder / f"{name}.csv")
    rare = rare_classes(cases)
    left = f"Left out of it, since fewer than {LEAST} patients have them: {', '.join(rare)}."
    shown = means[["arm", "n_train", "miou", "miou_lo", "miou_hi", "dice", "dice_lo", "dice_hi"]]
    return [
        " ".join(sentences(table)),
        left if rare and set(rare) < set(cases["class"]) else "",
        "## How many masks?",
        _list(advice(cases, table, margin)),
        "## The comparison",
        _table(table.drop(columns=["why", "df", "best"])) if len(table) else "",
        "Paired differences in mean IoU over the foreground classes, on films of patients that no "
        "network had seen in training; 95 % intervals and p over patients and seeds. With "
        "cross-validation the networks of different folds share training films, so that intervals "
        "are somewhat too narrow. *Smallest visible*: the true effect that this design would have "
        f"found in four of five cases. A gain of {margin:g} counts as worth it.",
        "Each start with each number of masks; intervals over patients alone:",
        _table(shown.sort_values(["arm", "n_train"])),
        *at_the_edge(selection[selection["n_train"] == selection["n_train"].max()]),
    ]


def _classifiers(folder: Path, aurocs: pd.DataFrame) -> list[str]:
    if aurocs.empty:
        return ["## The classifiers", "Not judged: no new film has both states of a finding."]
    write_csv(aurocs, folder / "classifiers.csv")
    shown = aurocs[(aurocs["finding"] == "macro") | (aurocs["auroc_lo"] <= 0.5)]
    return [
        "## The classifiers",
        "AUROC on patients that the classifier did not see (of one that was given trained: on all "
        "films to learn from, if it was not trained on these): the mean over the findings, and "
        "findings that are not better than chance beyond doubt. Labels made of the explanations of "
        "a classifier near 0.5 are noise.",
        _table(shown[["classifier", "finding", "auroc", "auroc_lo", "auroc_hi", "n"]]),
    ]


def _table(frame: pd.DataFrame) -> str:
    return markdown(display(frame, names=NAMES))


def _list(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def write_check(
    path: Path, yours: Radiographs, covered: pd.DataFrame, notes: Iterable[str], n: int = 12
) -> None:
    """An HTML page for you to look at before any training: thumbnails of `n` films with masks and
    of a film of each finding, counts, `covered` by masks (`measure_masks`), and doubts."""
    table, task = yours.films, yours.task
    states = table.films[list(FINDINGS)].astype(float)
    names = {"positive": 1.0, "negative": 0.0, "uncertain": -1.0}
    counts = pd.DataFrame({name: (states == state).sum() for name, state in names.items()})
    counts["not said"] = states.isna().sum()
    for split, part in states.groupby(table.films["split"]):
        counts[f"positive, {split}"] = (part == 1).sum()
    many = (states == 1).sum(axis=1)  # a film with few others shows a finding best
    best = {f: int(many.where(states[f] == 1).argmin()) for f in FINDINGS if (states[f] == 1).any()}
    seen = [f"{f}: {table.films['image_id'].iloc[i]}" for f, i in best.items()]
    some = sorted(set(np.linspace(0, len(task) - 1, min(n, len(task))).astype(int).tolist()))
    titles = task.films["image_id"].iloc[some].tolist()
    sheets = {
        "Masks on your radiographs": _sheet(task, some, titles),
        "Findings, one radiograph each": _sheet(table, list(best.values()), seen),
    }
    body = [f"<h1>{html.escape(str(table.root))}</h1><p>{WARNING}</p>", "<h2>To look into</h2><ul>"]
    body += [f"<li>{html.escape(note)}</li>" for note in notes]
    facts = pd.DataFrame(
        [(k, v) for k, v in yours.facts.items() if not k.startswith("positive")], columns=["", "n"]
    )
    body += ["</ul><h2>What was read</h2>", facts.to_html(index=False)]
    body += [
        counts[counts["not said"] < len(states)].to_html(),
        covered.round(3).to_html(index=False),
    ]
    for title, figure in sheets.items():
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=100)
        plt.close(figure)
        code = base64.b64encode(stream.getvalue()).decode()
        body.append(f"<h2>{title}</h2><img alt='{title}' src='data:image/png;base64,{code}'>")
    style = "body{font:15px sans-serif;margin:2em auto;max-width:70em}td,th{padding:.2em .7em}"
    style += "table{border-collapse:collapse;margin:1em 0}img{max-width:100%}"
    head = f"<meta charset='utf-8'><title>Your radiographs</title><style>{style}</style>"
    path.write_text(f"<!doctype html>{head}{''.join(body)}", encoding="utf-8")


def _sheet(table: FilmTable, rows: Sequence[int], titles: Sequence[str]) -> Figure:
    """Films of a table with those masks that they have."""
    side, classes = 192, [str(name) for name in table.masks]
    images, masks = [], np.zeros((len(rows), len(classes), side, side), np.uint8)
    for i, row in enumerate(rows):
        film = load_image(table.films["path"].iloc[row], table.depths, table.any_ending)
        images.append(fit(film, side))
        for j, name in enumerate(classes):
            masks[i, j] = fit_mask(table.masks[name].iloc[row].load(*film.shape), side) == 1
    return in_notebook.films(np.stack(images), titles, masks, classes, columns=6, side=2.0)


def show_predictions(films: Path, out: Path, table: pd.DataFrame, n: int = 8) -> Figure:
    """Films with the masks drawn on them (PNG), those that the network was not trained on first."""
    side, classes = 256, list(table["class"].unique())
    order = table.sort_values("trained_on", kind="stable")["file"].unique()
    names = order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(int)]
    rows = table.set_index(["file", "class"])["mask"]
    masks = [
        [fit_mask((load_image(out / rows[name, one]) == 255).astype(np.uint8), side)
         for one in classes]
        for name in names
    ]  # fmt: skip
    images = np.stack([fit(load_image(films / name), side) for name in names])
    titles = [name if len(name) <= 28 else f"…{name[-27:]}" for name in names]
    return in_notebook.films(images, titles, np.array(masks), classes, columns=4, side=2.3)
