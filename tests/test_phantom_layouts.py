"""The phantom in the layouts of JSRT, Montgomery, Shenzhen and COVID-QU-Ex."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dollkit.common.errors import InputError
from dollkit.common.findings import PATHOLOGIES
from dollkit.data.phantom.__main__ import main
from dollkit.data.phantom.layout_files import LAYOUTS, truth
from dollkit.data.phantom.layouts import write_all, write_layout, write_tree
from dollkit.data.phantom.render import ORGANS, render

SIZE, SEED = 64, 5
NAMES = ("JPCLN001", "JPCNN002", "JPCLN106")
LESION = PATHOLOGIES.index("Lung Lesion")


def _digest(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {
        p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files
    }


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def _mask(path: Path) -> np.ndarray:
    pixels = _picture(path)
    assert set(np.unique(pixels)) <= {0, 255}, path
    return pixels // 255


def _raw(path: Path) -> np.ndarray:
    return np.fromfile(path, dtype=">u2").reshape(2048, 2048)


def _write(out: Path, layout: str, n: int | None, **options: object) -> pd.DataFrame:
    return write_layout(out, layout, n, SIZE, SEED, progress=False, **options)


@pytest.fixture(scope="module")
def jsrt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("x") / "JSRT"
    return out, _write(out, "jsrt", None, names=NAMES)


@pytest.fixture(scope="module")
def montgomery(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("x") / "new"
    return out, _write(out, "montgomery", 8)


@pytest.fixture(scope="module")
def shenzhen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("x") / "new"
    return out, _write(out, "shenzhen", 13)


@pytest.fixture(scope="module")
def covid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    out = tmp_path_factory.mktemp("x") / "new"
    return out, _write(out, "covid-qu-ex", 12)


def test_jsrt_tree(jsrt: tuple[Path, pd.DataFrame]) -> None:
    out, table = jsrt
    assert table["image_id"].tolist() == list(NAMES)
    expected = {"CLNDAT_EN.txt", "CNNDAT_EN.TXT"}
    folds = {"JPCLN001": "fold1", "JPCNN002": "fold2", "JPCLN106": "fold2"}
    for name, files in zip(table["image_id"], table["files"], strict=True):
        masks = [f"scratch/{folds[name]}/masks/{organ}/{name}.gif" for organ in ORGANS]
        assert list(files) == [f"All247images/{name}.IMG", *masks]
        expected |= set(files)
    assert set(_digest(out)) == expected
    organs = {"heart", "left lung", "right lung", "left clavicle", "right clavicle"}
    assert {p.name for p in (out / "scratch/fold1/masks").iterdir()} == organs


def test_jsrt_films_are_inverted_big_endian_twelve_bit(jsrt: tuple[Path, pd.DataFrame]) -> None:
    out, _ = jsrt
    films = render(truth("jsrt", None, SEED, NAMES), SIZE, SEED)
    for i, name in enumerate(NAMES):
        path = out / "All247images" / f"{name}.IMG"
        assert path.stat().st_size == 8_388_608
        raw = _raw(path)
        assert raw.max() <= 4095
        # Bone is dark in the file; the grey of the phantom comes back exactly.
        grey = np.rint((1 - raw / 4095.0) * 255)
        np.testing.assert_array_equal(grey, np.kron(films.images[i], np.ones((32, 32))))
    # The first two bytes by hand: high byte first.
    image = films.images[0]
    value = round((1 - int(image[0, 0]) / 255) * 4095)
    first = (out / "All247images" / "JPCLN001.IMG").read_bytes()[:2]
    assert first == bytes([value >> 8, value & 255])


def test_jsrt_masks_are_the_phantoms(jsrt: tuple[Path, pd.DataFrame]) -> None:
    out, _ = jsrt
    films = render(truth("jsrt", None, SEED, NAMES), SIZE, SEED)
    for i, name in enumerate(NAMES):
        fold = "fold1" if int(name[5:]) % 2 else "fold2"
        for k, organ in enumerate(ORGANS):
            path = out / "scratch" / fold / "masks" / organ / f"{name}.gif"
            assert path.read_bytes()[:3] == b"GIF"
            with Image.open(path) as image:
                assert image.size == (1024, 1024)
            mask = _mask(path)
            assert mask.any()
            np.testing.assert_array_equal(mask[::16, ::16], films.organs[i, k])
            np.testing.assert_array_equal(mask, np.kron(films.organs[i, k], np.ones((16, 16))))
        # The patient's left lung is on the right of the picture.
        left, right = (np.nonzero(films.organs[i, k])[1].mean() for k in (0, 1))
        assert left > right


def test_jsrt_clinical_tables(jsrt: tuple[Path, pd.DataFrame]) -> None:
    out, _ = jsrt
    rows = truth("jsrt", None, SEED, NAMES)
    films = render(rows, SIZE, SEED)
    sexes = {"M": "male", "F": "female"}
    text = (out / "CLNDAT_EN.txt").read_bytes().decode("ascii")
    assert "\n" not in text
    lines = text.split("\r")
    assert [line.split("\t")[0] for line in lines] == ["JPCLN001.IMG", "JPCLN106.IMG"]
    for line, i in zip(lines, (0, 2), strict=True):
        fields = line.split("\t")
        assert len(fields) == 12
        subtlety, diameter, x, y = (int(fields[k]) for k in (1, 2, 5, 6))
        assert fields[3] == ("?" if i == 2 else str(rows["age"][i]))
        assert fields[4] == sexes[rows["sex"][i]]
        assert 1 <= subtlety <= 5
        # A nodule of the phantom is 0.04 to 0.13 of the film wide, more where two touch.
        assert 0.03 * 2048 * 0.175 < diameter < 0.2 * 2048 * 0.175
        assert films.findings[i, LESION, y // 32, x // 32] == 1
        side = "left lung" if fields[8].startswith("l.") else "right lung"
        assert (x > 1024) == (side == "left lung")
        assert fields[7] in ("benign", "malignant")
        assert fields[8] in ("l.upper", "l.lower", "r.upper", "r.lower")
        assert fields[9:] == ["lobe", "phantom nodu", "le"]
    text = (out / "CNNDAT_EN.TXT").read_bytes().decode("ascii")
    assert "\n" not in text
    assert text.split() == [
        "JPCNN002.IMG",
        str(rows["age"][1]),
        sexes[rows["sex"][1]],
        "non-nodule",
    ]
    assert "\t" not in text


def test_jsrt_nodules_are_where_the_names_say() -> None:
    rows = truth("jsrt", 247, SEED)
    assert rows["name"].tolist()[::153] == ["JPCLN001", "JPCLN154"]
    assert rows["name"].iloc[-1] == "JPCNN093"
    nodule = rows["name"].str.startswith("JPCLN")
    np.testing.assert_array_equal(rows["Lung Lesion"], nodule.astype(int))
    assert rows["image_id"].is_unique
    # A film does not depend on which others are written.
    few = truth("jsrt", None, SEED, NAMES).set_index("name")
    pd.testing.assert_frame_equal(few, rows.set_index("name").loc[list(NAMES)])


def test_montgomery(montgomery: tuple[Path, pd.DataFrame]) -> None:
    out, table = montgomery
    rows = truth("montgomery", 8, SEED)
    films = render(rows, SIZE, SEED)
    root = out / "MontgomerySet"
    band = round(SIZE * (4892 / 4020 - 1) / 2)
    assert set(_digest(out)) == {f for files in table["files"] for f in files}
    assert sorted(p.name for p in root.iterdir()) == ["CXR_png", "ClinicalReadings", "ManualMask"]
    assert table["image_id"][0] == "MCUCXR_0001_0"
    for i, name in enumerate(table["image_id"]):
        assert name == f"MCUCXR_{i + 1:04d}_{1 - rows['No Finding'][i]}"
        upright = i % 2 == 0
        inner = (slice(band, -band), slice(None)) if upright else (slice(None), slice(band, -band))
        film = root / "CXR_png" / f"{name}.png"
        with Image.open(film) as image:
            assert image.mode == "L"
            long = SIZE + 2 * band
            assert image.size == ((SIZE, long) if upright else (long, SIZE))
        for k, side in enumerate(("leftMask", "rightMask")):
            mask = _mask(root / "ManualMask" / side / f"{name}.png")
            np.testing.assert_array_equal(mask[inner], films.organs[i, k])
            assert mask.sum() == films.organs[i, k].sum()
        pixels = _picture(film)
        np.testing.assert_array_equal(pixels[inner], films.images[i])
        assert pixels.sum() == films.images[i].sum()
        text = (root / "ClinicalReadings" / f"{name}.txt").read_bytes().decode("ascii")
        sex, age, seen = text.splitlines()
        assert sex == f"Patient's Sex: {rows['sex'][i]} "
        assert age == f"Patient's Age: {rows['age'][i]:03d}Y"
        assert (seen == "normal") == name.endswith("_0")
    # Of the released aspect up to half a pixel on each side.
    assert abs(SIZE + 2 * band - SIZE * 4892 / 4020) <= 1
    last = table["image_id"].str[-1].tolist()
    assert last == sorted(last)
    assert set(last) == {"0", "1"}


def test_shenzhen(shenzhen: tuple[Path, pd.DataFrame]) -> None:
    out, table = shenzhen
    rows = truth("shenzhen", 13, SEED)
    films = render(rows, SIZE, SEED)
    assert sorted(p.name for p in out.iterdir()) == ["ChinaSet_AllFiles", "mask"]
    assert len(list((out / "mask").iterdir())) == 11
    for i, name in enumerate(table["image_id"]):
        assert re.fullmatch(rf"CHNCXR_{i + 1:04d}_[01]", name)
        film = out / "ChinaSet_AllFiles" / "CXR_png" / f"{name}.png"
        with Image.open(film) as image:
            assert image.mode == "P"
        np.testing.assert_array_equal(_picture(film), films.images[i])
        mask = out / "mask" / f"{name}_mask.png"
        assert mask.exists() == ((i + 1) % 6 != 0)
        if mask.exists():
            lungs = films.organs[i, 0] | films.organs[i, 1]
            np.testing.assert_array_equal(_mask(mask), lungs)
        reading = out / "ChinaSet_AllFiles" / "ClinicalReadings" / f"{name}.txt"
        first, seen = reading.read_bytes().decode("ascii").splitlines()
        assert first == f"{'male' if rows['sex'][i] == 'M' else 'female'} {rows['age'][i]}yrs"
        assert (seen == "normal") == name.endswith("_0")


def test_covid_qu_ex(covid: tuple[Path, pd.DataFrame]) -> None:
    out, table = covid
    rows = truth("covid-qu-ex", 12, SEED)
    films = render(rows, SIZE, SEED)
    assert rows["patient_id"].is_unique
    count = {"covid": 6, "non_covid": 3, "normal": 3}
    assert set(table["image_id"]) == {f"{k}_{i}" for k in count for i in range(1, count[k] + 1)}
    prefix = {"COVID-19": "covid", "Non-COVID": "non_covid", "Normal": "normal"}
    places = set()
    for i, (name, files) in enumerate(zip(table["image_id"], table["files"], strict=True)):
        lung, infection = (f"{t} Segmentation Data" for t in ("Lung", "Infection"))
        split, kind = rows["folder"][i].split("/")
        places.add((split, kind))
        assert name.rsplit("_", 1)[0] == prefix[kind]
        expected = [
            f"{lung}/{lung}/{split}/{kind}/{d}/{name}.png" for d in ("images", "lung masks")
        ]
        expected += [
            f"{infection}/{infection}/{split}/{kind}/{d}/{name}.png"
            for d in ("images", "lung masks", "infection masks")
        ]
        assert list(files) == expected
        lungs = films.organs[i, 0] | films.organs[i, 1]
        truths = (films.images[i], lungs, films.images[i], lungs, films.infection[i])
        for file, true in zip(files, truths, strict=True):
            with Image.open(out / file) as image:
                assert (image.mode, image.size) == ("L", (256, 256))
            pixels = _picture(out / file) if "/images/" in file else _mask(out / file)
            np.testing.assert_array_equal(pixels, np.kron(true, np.ones((4, 4))))
        assert films.infection[i].any() == (kind == "COVID-19")
        if kind == "Non-COVID":
            assert films.findings[i, PATHOLOGIES.index("Pneumonia")].any()
        if kind == "Normal":
            assert rows["No Finding"][i] == 1
            assert not films.findings[i, :-1].any()
    splits = ("Train", "Val", "Test")
    assert places == {(split, kind) for split in splits for kind in prefix}


def test_covid_qu_ex_with_one_level(covid: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    _write(tmp_path / "one", "covid-qu-ex", 12, doubled=False)
    two = {f.split("/", 1)[1]: digest for f, digest in _digest(covid[0]).items()}
    assert _digest(tmp_path / "one") == two


@pytest.mark.parametrize("layout", LAYOUTS)
def test_written_twice_is_equal(layout: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / name, layout, 2)
    first = _digest(tmp_path / "a")
    assert first == _digest(tmp_path / "b")
    table = write_layout(tmp_path / "c", layout, 2, SIZE, SEED + 1, progress=False)
    other = _digest(tmp_path / "c")
    for files in table["files"]:
        assert other[files[0]] not in first.values()


def test_patients_of_the_layouts_are_different_people() -> None:
    patients = [set(truth(layout, 20, SEED)["patient_id"]) for layout in LAYOUTS]
    assert all(len(p) == 20 for p in patients)
    assert len(set.union(*patients)) == 80


def test_all_layouts_under_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "data"
    arguments = ["--out", str(out), "--n", "2", "--size", "64", "--seed", str(SEED)]
    assert main([*arguments, "--layout", "all", "--one-level", "--label-noise", "1"]) == 0
    below = ["COVID-QU-Ex", "CheXpert-v1.0-small", "ChinaSet_AllFiles", "JSRT", "MontgomerySet"]
    assert sorted(p.name for p in out.iterdir()) == [*below, "mask"]
    assert (out / "JSRT/All247images/JPCLN002.IMG").stat().st_size == 8_388_608
    assert (out / "COVID-QU-Ex/Lung Segmentation Data/Train/COVID-19/images/covid_1.png").exists()
    for layout, folder in (("montgomery", "MontgomerySet"), ("shenzhen", "ChinaSet_AllFiles")):
        _write(tmp_path / layout, layout, 2)
        assert _digest(tmp_path / layout / folder) == _digest(out / folder)


def test_table_of_all_names_files_that_exist(tmp_path: Path) -> None:
    table = write_all(tmp_path / "data", 1, SIZE, SEED, progress=False)
    assert table["layout"].tolist() == list(LAYOUTS)
    for files in table["files"]:
        assert files
        assert all((tmp_path / "data" / f).is_file() for f in files)


def test_command_still_writes_the_chexpert_tree(tmp_path: Path) -> None:
    write_tree(tmp_path / "a/tree", 6, SIZE, SEED, progress=False)
    plain = ["--n", "6", "--size", "64", "--seed", str(SEED)]
    assert main(["--out", str(tmp_path / "b/tree"), *plain]) == 0
    assert main(["--out", str(tmp_path / "c/tree"), *plain, "--layout", "chexpert"]) == 0
    wanted = _digest(tmp_path / "a")
    assert "tree/train.csv" in wanted
    assert _digest(tmp_path / "b") == wanted
    assert _digest(tmp_path / "c") == wanted


def test_command_writes_a_layout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new"
    plain = ["--out", str(out), "--size", "64", "--seed", str(SEED), "--layout", "jsrt"]
    assert main([*plain, "--names", "JPCNN093"]) == 0
    assert "1 films in the layout of jsrt" in capsys.readouterr().out
    assert [p.name for p in (out / "All247images").iterdir()] == ["JPCNN093.IMG"]
    assert (out / "CLNDAT_EN.txt").read_bytes() == b""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--layout", "zoo"], ("zoo", "covid-qu-ex")),
        (["--layout", "jsrt", "--n", "248"], ("'n'", "248", "247")),
        (["--layout", "all", "--n", "248"], ("'n'", "248", "247")),
        (["--layout", "montgomery", "--n", "0"], ("'n'", "0")),
        (["--layout", "jsrt", "--n", "-1"], ("'n'", "-1")),
        (["--layout", "jsrt", "--size", "96"], ("'size'", "96", "512")),
        (["--layout", "covid-qu-ex", "--size", "512"], ("'size'", "512", "256")),
        (["--layout", "all", "--size", "1024"], ("'size'", "1024", "256")),
        (["--layout", "montgomery", "--size", "100"], ("'size'", "100")),
        (["--layout", "shenzhen", "--seed", "-1"], ("'seed'", "-1")),
        (["--layout", "jsrt", "--names", "JPCLN155"], ("'names'", "JPCLN155")),
        (["--layout", "jsrt", "--names", "JPCLN001.IMG"], ("'names'", "JPCLN001.IMG")),
        (["--layout", "jsrt", "--names", "JPCLN001", "JPCLN001"], ("JPCLN001", "twice")),
        (["--layout", "jsrt", "--n", "2", "--names", "JPCLN001"], ("'n'", "'names'")),
        (["--layout", "shenzhen", "--names", "JPCLN001"], ("--names", "shenzhen")),
        (["--layout", "all", "--names", "JPCLN001"], ("--names", "all")),
        (["--names", "JPCLN001"], ("--names", "chexpert")),
        (["--layout", "jsrt", "--label-noise", "0"], ("--label-noise", "jsrt")),
        (["--layout", "montgomery", "--valid-fraction", "0.1"], ("--valid-fraction", "montgomery")),
        (["--layout", "covid-qu-ex", "--cohort", "covid"], ("--cohort", "covid-qu-ex")),
        (["--layout", "jsrt", "--one-level"], ("--one-level", "jsrt")),
        (["--one-level"], ("--one-level", "chexpert")),
        (["--layout", "all", "--valid-fraction", "1"], ("valid_fraction",)),
        (["--layout", "all", "--cohort", "zoo"], ("zoo",)),
        (["--layout", "all", "--label-noise", "2"], ("label_noise",)),
    ],
)
def test_bad_parameters_stop_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: tuple[str, ...]
) -> None:
    given = ["--out", str(tmp_path / "new"), *flags]
    given += [] if "--n" in flags or "--names" in flags else ["--n", "2"]
    given += [] if "--size" in flags else ["--size", "64"]
    assert main(given) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    for word in words:
        assert word in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("layout", "options", "word"),
    [
        ("zoo", {}, "'zoo'"),
        ("chexpert", {}, "'chexpert'"),
        ("montgomery", {"doubled": False}, "'doubled'"),
        ("jsrt", {"doubled": True}, "'doubled'"),
        ("covid-qu-ex", {"names": ("JPCLN001",)}, "'names'"),
        ("jsrt", {"names": ()}, "'n'"),
    ],
)
def test_options_of_another_layout_are_refused(
    tmp_path: Path, layout: str, options: dict[str, object], word: str
) -> None:
    n = None if "names" in options else 1
    with pytest.raises(InputError, match=word):
        _write(tmp_path / "new", layout, n, **options)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("layout", [*LAYOUTS, "all"])
def test_bad_folders_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: str
) -> None:
    (tmp_path / "file").write_text("x")
    for out, word in ((tmp_path, "not empty"), (tmp_path / "file" / "new", "file")):
        plain = ["--out", str(out), "--n", "1", "--size", "64", "--layout", layout]
        assert main(plain) == 2
        message = capsys.readouterr().err
        assert word in message
        assert message.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"JPCLN001\.IMG: cannot be written \(No space left"):
        _write(tmp_path / "new", "jsrt", 1)
