"""CheXpert's reader on tables with the released counts: 223,414 rows, and no films."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dollkit.common.findings import FINDINGS
from dollkit.data.check import compare
from dollkit.data.film_table import FilmTable
from dollkit.data.sets.chexpert import (
    DATASET,
    DOCUMENTED,
    HEADER,
    PREVALENCE,
    prevalence,
    read_chexpert,
)
from dollkit.data.splits import share
from tests.chexpert_trees import film_row, write_csv

# Not documented: any numbers would do.
NO_FINDING = 22000
PATIENTS = 64000


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables with the counts of the released ones, and no films."""
    root = tmp_path_factory.mktemp("CheXpert") / "CheXpert-v1.0-small"
    root.mkdir()
    rng = np.random.default_rng(0)
    n = DOCUMENTED["rows"]

    def deal(size: int, **counts: int) -> list[str]:
        left = {"": size - sum(counts.values())}
        values = [np.full(count, value) for value, count in {**counts, **left}.items()]
        return rng.permutation(np.concatenate(values)).tolist()

    kinds = np.array(deal(n, Frontal=DOCUMENTED["frontal"], Lateral=DOCUMENTED["lateral"]))
    positions = np.full(n, "", "U2")
    positions[kinds == "Frontal"] = deal(
        DOCUMENTED["frontal"], **{p: DOCUMENTED[p] for p in ("AP", "PA", "LL", "RL")}
    )
    patients = np.sort(rng.integers(1, PATIENTS + 1, n))
    paths = [
        f"CheXpert-v1.0-small/train/patient{p:05d}/study1/view{i}_{kind}.jpg"
        for i, (p, kind) in enumerate(zip(patients, np.char.lower(kinds), strict=True))
    ]
    sexes = deal(n, Male=DOCUMENTED["male"], Female=DOCUMENTED["female"], Unknown=1)
    counts = {"No Finding": (NO_FINDING, 0, 0), **PREVALENCE}
    labels = [
        deal(n, **dict(zip(("1.0", "0.0", "-1.0"), counts[finding], strict=True)))
        for finding in FINDINGS
    ]
    ages = rng.integers(18, 91, n).astype(str)
    columns = (paths, sexes, ages, kinds, positions, *labels)
    lines = [",".join(HEADER), *map(",".join, zip(*columns, strict=True))]
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    rows = [
        film_row(f"valid/patient{90000 + k % 200}/study1/view{k // 200 + 1}_frontal.jpg")
        for k in range(234)
    ]
    write_csv(root / "valid.csv", rows)
    return root


@pytest.fixture(scope="module")
def released_table(released: Path) -> FilmTable:
    return read_chexpert(released)


def test_released_counts_are_found_again(released_table: FilmTable) -> None:
    found = dict(released_table.facts)
    assert found.pop("No Finding positive") == NO_FINDING
    assert found == DOCUMENTED
    assert compare(released_table.facts, DATASET.documented)["ok"].all()
    films = released_table.films
    assert len(films) == 191027 + 234
    assert len(released_table.others) == 32387
    assert films["view"][films["split"] != "test"].value_counts().to_dict() == {
        "AP": 161590,
        "PA": 29420,
        "": 17,
    }
    assert released_table.depths == (8,)
    assert len(released_table.bad) == 0


def test_released_prevalence_is_found_again(released: Path, released_table: FilmTable) -> None:
    table = prevalence(released / "train.csv")
    assert table.index.tolist() == list(FINDINGS)
    assert table.columns.tolist() == ["positive", "negative", "uncertain", "not mentioned"]
    assert table.loc["No Finding"].tolist() == [NO_FINDING, 0, 0, 223414 - NO_FINDING]
    # By hand, from the released table.
    assert table.loc["Pleural Effusion"].tolist() == [86187, 35396, 11628, 90203]
    assert table.loc["Fracture"].tolist() == [9040, 2512, 642, 211220]
    for finding, counts in PREVALENCE.items():
        assert tuple(table.loc[finding])[:3] == counts
    frontal = prevalence(released_table.films)
    assert (frontal.sum(axis=1) == 191027 + 234).all()
    assert (frontal.loc["Edema"] <= table.loc["Edema"] + [234, 0, 0, 0]).all()


def test_no_patient_of_the_released_tables_is_in_two_splits(released_table: FilmTable) -> None:
    films = released_table.films
    assert films.groupby("patient_id")["split"].nunique().max() == 1
    assert films["image_id"].is_unique
    training = films[films["split"] != "test"].drop_duplicates("patient_id")
    assert len(training) > 0.9 * PATIENTS
    # Binomial: 0.1 +- 5 standard deviations.
    assert abs((training["split"] == "valid").mean() - 0.1) < 5 * (0.09 / len(training)) ** 0.5
    held = training["patient_id"].map(share) < 0.1
    assert (held == (training["split"] == "valid")).all()
