"""The phantom's trees on disk hold to the released formats; `test_disk` reads them back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dollkit.common.findings import FINDINGS, PATHOLOGIES
from dollkit.data.phantom.population import Protocol
from dollkit.data.phantom.render import render
from tests.phantom_layouts import LAYOUTS, truth, write_layout, write_tree

SIZE, SEED = 64, 5
HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,"
    "Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,"
    "Pleural Effusion,Pleural Other,Fracture,Support Devices"
)


def test_jsrt_is_inverted_big_endian_twelve_bit_with_its_clinical_table(tmp_path: Path) -> None:
    write_layout(tmp_path, "jsrt", 2, SIZE, SEED)
    rows = truth("jsrt", 2, SEED)
    films = render(rows, SIZE, SEED)
    content = (tmp_path / "All247images/JPCLN001.IMG").read_bytes()
    assert len(content) == 8_388_608
    value = round((1 - int(films.images[0, 0, 0]) / 255) * 4095)
    assert content[:2] == bytes([value >> 8, value & 255])  # high byte first, bone dark
    with Image.open(tmp_path / "scratch/fold1/masks/heart/JPCLN001.gif") as mask:
        pixels = np.asarray(mask.convert("L")) // 255
        np.testing.assert_array_equal(pixels, np.kron(films.organs[0, 2], np.ones((16, 16))))
    lines = (tmp_path / "CLNDAT_EN.txt").read_bytes().decode("ascii").split("\r")
    assert [line.split("\t")[0] for line in lines] == ["JPCLN001.IMG", "JPCLN002.IMG"]
    for i, line in enumerate(lines):
        _, subtlety, diameter, age, sex, x, y, kind, place, *rest = line.split("\t")
        assert (age, sex) == (str(rows["age"][i]), {"M": "male", "F": "female"}[rows["sex"][i]])
        assert 1 <= int(subtlety) <= 5
        # A nodule of the phantom is 0.04 to 0.13 of the film wide, more where two touch.
        assert 0.03 * 2048 * 0.175 < int(diameter) < 0.2 * 2048 * 0.175
        assert films.findings[i, PATHOLOGIES.index("Lung Lesion"), int(y) // 32, int(x) // 32]
        assert kind in ("benign", "malignant")
        assert (int(x) > 1024) == place.startswith("l.")  # the patient's left
        assert rest == ["lobe", "phantom nodu", "le"]


def test_readings_and_places(tmp_path: Path) -> None:
    for layout in ("montgomery", "shenzhen", "covid-qu-ex"):
        write_layout(tmp_path, layout, 6, SIZE, SEED)
    rows = truth("montgomery", 6, SEED)
    for name, sex, age in zip(rows["name"], rows["sex"], rows["age"], strict=True):
        text = (tmp_path / f"MontgomerySet/ClinicalReadings/{name}.txt").read_text()
        assert text.startswith(f"Patient's Sex: {sex} \nPatient's Age: {age:03d}Y\n")
        assert text.endswith("\nnormal\n") == name.endswith("_0")
    with Image.open(tmp_path / f"MontgomerySet/CXR_png/{rows['name'][0]}.png") as film:
        assert abs(film.height - film.width * 4892 / 4020) <= 1
    name = truth("shenzhen", 6, SEED)["name"][5]
    with Image.open(tmp_path / f"ChinaSet_AllFiles/CXR_png/{name}.png") as film:
        assert film.mode == "P"
    assert len(list((tmp_path / "mask").iterdir())) == 5
    tree = "Infection Segmentation Data/" * 2
    masks = tmp_path / tree / "Train/Non-COVID/infection masks"
    assert [p.name for p in masks.iterdir()] == ["non_covid_1.png"]


def test_patients_of_the_layouts_are_different_people() -> None:
    patients = [set(truth(layout, 20, SEED)["patient_id"]) for layout in LAYOUTS]
    assert [len(p) for p in patients] == [20] * 4
    assert len(set.union(*patients)) == 80


def test_tables_are_chexperts(tmp_path: Path) -> None:
    root = tmp_path / "CheXpert-v1.0-small"
    write_tree(root, 40, SIZE, 9, Protocol(label_noise=1), valid_fraction=0.3)
    for name in ("train.csv", "valid.csv"):
        assert (root / name).read_text().splitlines()[0] == HEADER
    train, valid = (
        pd.read_csv(root / name, dtype=str, keep_default_na=False)
        for name in ("train.csv", "valid.csv")
    )
    both = pd.concat([train, valid])
    assert len(both) == 40
    assert set(np.unique(both[list(FINDINGS)].to_numpy())) == {"1.0", "0.0", "-1.0", ""}
    assert set(both["No Finding"]) <= {"1.0", ""}
    # Those that judge are clean, as if read by radiologists.
    assert set(np.unique(valid[list(PATHOLOGIES)].to_numpy())) <= {"1.0", "0.0"}
    patients = [set(part["Path"].str.split("/").str[2]) for part in (train, valid)]
    assert not patients[0] & patients[1]
    assert all((tmp_path / path).is_file() for path in both["Path"])
