"""The CheXpert tree on disk and its command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data.phantom.__main__ import main
from dollkit.data.phantom.population import sample_population
from dollkit.data.phantom.render import render

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("x") / "CheXpert-v1.0-small"
    arguments = ["--out", str(out), "--n", "40", "--size", "64", "--seed", "9"]
    assert main([*arguments, "--label-noise", "1", "--valid-fraction", "0.3"]) == 0
    return out


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def test_tables_are_chexperts(root: Path) -> None:
    for name in ("train.csv", "valid.csv"):
        assert (root / name).read_text().splitlines()[0] == HEADER
    train, valid = _read(root / "train.csv"), _read(root / "valid.csv")
    assert len(train) + len(valid) == 40
    assert len(valid) > 4
    both = pd.concat([train, valid])
    assert set(np.unique(both[list(FINDINGS)].to_numpy())) == {"1.0", "0.0", "-1.0", ""}
    assert set(both["No Finding"]) <= {"1.0", ""}
    assert set(both["Sex"]) == {"Male", "Female"}
    # The read set is clean, as if by radiologists.
    assert set(np.unique(valid[list(PATHOLOGIES)].to_numpy())) <= {"1.0", "0.0"}

    def patient(p: str) -> str:
        return p.split("/")[2]

    assert not set(train["Path"].map(patient)) & set(valid["Path"].map(patient))
    pattern = r"CheXpert-v1\.0-small/(train|valid)/patient\d{5}/study\d/view1_frontal\.jpg"
    assert both["Path"].str.fullmatch(pattern).all()


def test_films_and_masks_are_those_rendered(root: Path) -> None:
    rows = sample_population(40, 9)
    films = render(rows, 64, 9)
    both = pd.concat([_read(root / "train.csv"), _read(root / "valid.csv")])
    where = {"_".join(p.split("/")[2:])[:-4]: root.parent / p for p in both["Path"]}
    for i, image_id in enumerate(rows["image_id"]):
        path = where[image_id]
        with Image.open(path) as image:
            assert image.mode == "L"
            pixels = np.asarray(image).astype(float)
        assert np.abs(pixels - films.images[i]).mean() < 4
        for k, finding in enumerate(PATHOLOGIES):
            beside = path.with_name(f"view1_frontal_mask_{finding.replace(' ', '_')}.png")
            assert beside.exists() == bool(rows[finding].iloc[i])
            if beside.exists():
                with Image.open(beside) as mask:
                    np.testing.assert_array_equal(np.asarray(mask), films.findings[i, k] * 255)
        assert path.with_name("view1_frontal_mask_left_lung.png").exists()


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"--n": "-3"}, "'n'"),
        ({"--size": "100"}, "'size'"),
        ({"--label-noise": "2"}, "label_noise"),
        ({"--valid-fraction": "1"}, "valid_fraction"),
        ({"--cohort": "zoo"}, "zoo"),
        ({"--seed": "-1"}, "seed"),
    ],
)
def test_bad_parameters_stop_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], word: str
) -> None:
    given = {"--out": str(tmp_path / "new"), "--n": "2", "--size": "64", **change}
    assert main([part for pair in given.items() for part in pair]) == 2
    message = capsys.readouterr().err
    assert word in message
    assert message.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_bad_folders_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    for out, word in ((tmp_path, "not empty"), (tmp_path / "file" / "new", "file")):
        assert main(["--out", str(out), "--n", "2", "--size", "64"]) == 2
        message = capsys.readouterr().err
        assert word in message
        assert message.count("\n") == 1
