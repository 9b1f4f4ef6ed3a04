"""Which of several networks and training sizes tables, claims and pictures are about."""

from __future__ import annotations

import pandas as pd

from dollkit.report.cases import SETTING


def main_size(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of the training size that tables and claims are about, per task and network.

    It is the one with most arms and tunings; then the smallest, where pre-training can show.
    Other sizes are for label efficiency (`dollkit.report.sizes`).
    """
    kept: list[pd.DataFrame] = []
    for _, part in frame.groupby(["task", "network"], sort=True):
        settings = part[["n_train", "arm", "tuning"]].drop_duplicates().groupby("n_train").size()
        kept.append(part[part["n_train"] == min(settings.index, key=lambda n: (-settings[n], n))])
    return pd.concat(kept, ignore_index=True) if kept else frame


def main_network(frame: pd.DataFrame) -> str:
    """The network that pictures and verdicts are about.

    It is the one with most arms and tunings; then PSPNet, the paper's; then the first by name.
    """
    settings = frame[["network", "arm", "tuning"]].drop_duplicates().groupby("network").size()
    names = [str(n) for n in settings.index]
    return min(names, key=lambda n: (-settings[n], n.lower() != "pspnet", n))


def at_the_edge(selection: pd.DataFrame) -> list[str]:
    """Notes that name the settings whose chosen learning rate is the last of its grid.

    A better rate may lie beyond it, so these rows may undersell their setting.

    Args:
        selection: rows of selection.csv.
    """
    found: dict[str, list[str]] = {"lowest": [], "highest": []}
    for key, part in main_size(selection).groupby([*SETTING, "fold"], sort=True):
        chosen = part.loc[part["selected"], "lr"]
        name = f"{key[0]} {key[3]}/{key[4]}"
        for side, last in (("lowest", part["lr"].min()), ("highest", part["lr"].max())):
            if part["lr"].nunique() > 1 and (chosen == last).any() and name not in found[side]:
                found[side].append(name)
    return [
        f"Chosen rate is the {side} of its grid, so that a better one may lie beyond: "
        f"{', '.join(names)}."
        for side, names in found.items()
        if names
    ]
