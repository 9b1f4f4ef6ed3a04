"""Pictures of one's own films: they stay in the folder of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dollkit import show
from dollkit.images import fit_mask, load_image
from dollkit.labels.store import LabelStore
from dollkit.own import ongrid
from dollkit.store import Store


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
        film = ongrid.read_film(films, name, side)
        own = {r["class"]: r for r in index[index["file"] == name].to_dict("records")}
        images.append(film.grid)
        masks.append([
            fit_mask((load_image(out / own[c]["mask"]) == own[c]["value"]).astype(np.uint8),
                     side, film.height, film.width)
            for c in classes
        ])  # fmt: skip
    titles = [_short(name) for name in dict.fromkeys(names)]
    return show.films(np.stack(images), titles, np.array(masks), classes, columns=4, side=2.3)


def labels(store: Store, made: LabelStore, n: int = 6) -> Figure:
    """Films with their DoLL labels, one finding each, the findings in turn."""
    pairs = made.pairs.reset_index(drop=True)
    pairs = pairs[pairs["finding"] != "No Finding"]
    turn = pairs.groupby("finding").cumcount().sort_values(kind="stable").index
    chosen = turn[:n].tolist()
    images = store.images[pairs.loc[chosen, "row"].to_numpy()]
    inside = np.stack([made.label(i) == 1 for i in chosen])[:, None].astype(np.uint8)
    return show.films(images, pairs.loc[chosen, "finding"].tolist(), inside, side=2.0)


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"…{name[-27:]}"
