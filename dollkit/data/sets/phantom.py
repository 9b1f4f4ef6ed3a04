"""The four stores from the chest phantom: rendered in parallel, no file in between."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm import tqdm

from dollkit.common.build_key import Key, code_of
from dollkit.common.errors import InputError
from dollkit.common.findings import FINDINGS, NOT_MENTIONED, PATHOLOGIES
from dollkit.common.machine import cores, versions
from dollkit.data.film_table import blank_films
from dollkit.data.phantom.population import Protocol, observe_labels, sample_population
from dollkit.data.phantom.render import ORGANS, render
from dollkit.data.store import standing
from dollkit.data.store_builder import map_ahead
from dollkit.data.store_writer import StoreWriter

COHORT_OF = {"films": "ward", "lungs": "lungs", "infection": "covid", "organs": "organs"}
"""Store -> the phantom's cohort. Patients of different cohorts are different people."""

CLASSES: dict[str, tuple[str, ...]] = {
    "films": PATHOLOGIES,
    "lungs": ("lungs",),
    "infection": ("infection",),
    "organs": ORGANS,
}
"""Store -> mask classes; all masks are exact and valid on every film."""

CHUNK = 32
U8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PhantomPlan:
    """How many films of each kind; all numbers are films, all splits by patient.

    `n_films` are those of the classification set and the two fractions its shares; the other three
    count in each task store. `protocol` holds the knobs of `Protocol` that are changed.
    """

    n_films: int = 400
    valid_fraction: float = 0.1
    test_fraction: float = 0.2
    n_train_pool: int = 32
    n_valid: int = 16
    n_test: int = 32
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("n_films", "n_train_pool", "n_valid", "n_test"):
            if getattr(self, name) < 1:
                raise InputError(f"parameter {name!r} is {getattr(self, name)}: use at least 1")
        for name in ("valid_fraction", "test_fraction"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise InputError(f"parameter {name!r} is {value}: use a share between 0 and 1")
        Protocol.from_json(dict(self.protocol))  # a wrong knob is told before films are decoded
        if min(self.quotas("films").values()) < 1:
            raise InputError(
                f"parameter 'n_films' is {self.n_films}: too few for its train, valid and test "
                "shares; use more films or other fractions"
            )

    def quotas(self, store: str) -> dict[str, int]:
        """Films per split of a store."""
        if store != "films":
            return {"train": self.n_train_pool, "valid": self.n_valid, "test": self.n_test}
        valid = round(self.n_films * self.valid_fraction)
        test = round(self.n_films * self.test_fraction)
        return {"train": self.n_films - valid - test, "valid": valid, "test": test}


def phantom_films(store: str, plan: PhantomPlan, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Films table of a store and the population rows behind it, in the same order.

    With label noise the labels of train and valid are those that a report labeller would give,
    and those of test stay true, as CheXpert's were set by radiologists.
    """
    quotas = plan.quotas(store)
    protocol = Protocol.from_json(dict(plan.protocol))
    population = sample_population(sum(quotas.values()) + 64, seed, COHORT_OF[store], protocol)
    split = fill_quotas(population["patient_id"], quotas)
    states = observe_labels(population[list(FINDINGS)].to_numpy(), seed, protocol)
    states[split == "test"] = population.loc[split == "test", list(FINDINGS)].to_numpy()
    kept = np.flatnonzero(split != "")
    population = population.iloc[kept].reset_index(drop=True)
    films = blank_films(len(kept))
    for column in ("image_id", "patient_id", "study_id", "view", "sex", "age"):
        films[column] = population[column]
    films["split"] = split[kept]
    films["fold"] = -1 if store == "films" else 0
    films["source"] = f"phantom-{COHORT_OF[store]}"
    values = states[kept].astype(float)
    films[list(FINDINGS)] = np.where(values == NOT_MENTIONED, np.nan, values)
    return films, population


def fill_quotas(patients: pd.Series[str], quotas: Mapping[str, int]) -> npt.NDArray[np.object_]:
    """Split of each film ("" for left out): whole patients, in order, until a split is full.

    Films that a patient has beyond a full split are left out: each split has exactly its number.
    """
    split = np.full(len(patients), "", dtype=object)
    groups = iter(patients.groupby(patients, sort=False).indices.values())
    for name, room in quotas.items():
        while room > 0:
            rows = next(groups, None)
            if rows is None:
                raise InputError(f"{len(patients)} films are too few for {dict(quotas)}")
            split[rows[:room]] = name
            room -= len(rows[:room])
    return split


def build_phantom(
    path: Path | str, store: str, size: int, plan: PhantomPlan, seed: int, workers: int | None
) -> Path:
    """Render one store of the phantom; one that stands is kept, one that was stopped goes on.

    The store is the same whatever `workers` (rendering processes; None: one per core, 1: none).
    More than one needs a main module that can be imported. `size` is in pixels.
    """
    protocol = Protocol.from_json(dict(plan.protocol))
    films, population = phantom_films(store, plan, seed)
    films["width"] = films["height"] = size
    n = len(films)
    account = {
        "source": "phantom",
        "cohort": COHORT_OF[store],
        "seed": seed,
        "protocol": protocol.to_json(),
        "quotas": plan.quotas(store),
    }
    starts = range(0, n, CHUNK)
    rule = {
        **account,
        "setting": {"size": size, "chunk": CHUNK},
        "version of": versions(("numpy", "pandas", "pillow", "scipy")),
        "code": code_of([__name__]),
    }
    key = Key(rule, [str(start) for start in starts])
    path = Path(path)
    if standing(path, key):
        return path
    with StoreWriter(path, size, CLASSES[store], account, key=key) as writer:
        chunks = [population.iloc[i : i + CHUNK] for i in starts if i >= writer.films]
        count = min(workers or cores(), len(chunks))
        with tqdm(total=n, initial=writer.films, desc=path.name, unit="film") as bar:
            for images, masks in _render_all(chunks, store, size, seed, protocol, count):
                writer.write(images, masks)
                writer.note({})
                bar.update(len(images))
        writer.finish(films)
    return path


def _render_all(
    chunks: list[pd.DataFrame], store: str, size: int, seed: int, protocol: Protocol, count: int
) -> Iterator[tuple[U8, U8]]:
    """Chunks in order, rendered ahead by a bounded number of processes."""
    one = partial(_render, store=store, size=size, seed=seed, protocol=protocol)
    if count <= 1:
        yield from map(one, chunks)
        return
    # Spawn: a fork of a process that runs threads (torch, Jupyter) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        yield from map_ahead(pool, one, chunks, 2 * count)


def _render(
    rows: pd.DataFrame, store: str, size: int, seed: int, protocol: Protocol
) -> tuple[U8, U8]:
    drawn = render(rows, size, seed, protocol)
    masks = {
        "films": drawn.findings,
        "lungs": drawn.organs[:, :1] | drawn.organs[:, 1:2],
        "infection": drawn.infection[:, None],
        "organs": drawn.organs,
    }
    return drawn.images, masks[store]
