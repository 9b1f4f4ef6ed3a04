"""What must not happen: code from files, words from headers, secrets in the repository."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import Dataset
from pydicom.datadict import DicomDictionary
from pydicom.tag import Tag

from dollkit.common import paths
from dollkit.data.sets.own_folder import read_own
from dollkit.data.store_builder import build_store
from dollkit.interactive.your_radiographs import read_and_check
from dollkit.labels import store as labels
from dollkit.training import published_weights
from tests.small_files import error_of
from tests.test_dicom import film, save

PLANTED = "XANTHOPOULOS"
TEXT = ("PN", "LO", "SH", "ST", "LT", "UT", "UC", "AE", "CS", "UR")
OFFLINE = paths.ROOT / "tests" / "offline"

UNSAFE = re.compile(
    r"weights_only=False|allow_pickle=True|\.extractall\(|unpack_archive|joblib\.load|os\.popen"
    r"|yaml\.(unsafe|full)_load|\b__import__\("
)
SECRETS = re.compile(
    r"gh[pousr]_[A-Za-z0-9]{30}|github_pat_\w{20}|hf_[A-Za-z0-9]{30}|AKIA[0-9A-Z]{16}"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY|xox[abp]-\w{10}|sk-[A-Za-z0-9]{32}"
    r"|eyJ[\w-]{20,}\.eyJ[\w-]{20,}"
)


def test_no_module_runs_or_unpacks_what_a_file_says() -> None:
    """Pickles, eval, unsafe YAML and shells are refused by ruff (S102 to S605); the rest here."""
    for path in (paths.ROOT / "dollkit").rglob("*.py"):
        assert not UNSAFE.search(path.read_text(encoding="utf-8")), path


class Harm:
    """Unpickling it would leave a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_files_run_no_code(tmp_path: Path) -> None:
    mark, file, shard = tmp_path / "harmed", tmp_path / "w.pth", tmp_path / "a.npz"
    file.write_bytes(pickle.dumps(Harm(mark)))
    np.savez(shard, pairs=np.array([Harm(mark)], dtype=object))
    assert "w.pth" in error_of(published_weights.find, str(file), "resnet18")
    assert "a.npz" in error_of(labels.merge, {shard: "key"}, tmp_path / "store", {"size": 16})
    assert not mark.exists()


def test_no_secret_in_the_repository() -> None:
    assert SECRETS.search("x = 'hf_" + "a" * 34 + "'")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=paths.ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("no git checkout: the files of the repository cannot be told from others")
    found = []
    for path in (paths.ROOT / name for name in listed.stdout.split("\0") if name):
        if path.is_file() and path.suffix in {".ipynb", ".py", ".md", ".yaml", ".yml", ".toml", ""}:
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{path}: {m[0][:12]}" for m in SECRETS.finditer(text)]
    assert found == []


def planted(values: np.ndarray) -> Dataset:
    """A film with the name in every text tag of DICOM, in a private one and in a sequence."""
    data = film(values)
    # What these say is how to read the rest.
    kept = {Tag(k) for k in ("PhotometricInterpretation", "SpecificCharacterSet")}
    inner = Dataset()
    for tag, (vr, *_, retired, keyword) in DicomDictionary.items():
        if vr in TEXT and keyword and not retired and tag >> 16 > 2 and tag not in kept:
            setattr(data, keyword, PLANTED)
            setattr(inner, keyword, PLANTED)
    data.RequestAttributesSequence = [inner]
    block = data.private_block(0x0009, PLANTED, create=True)
    block.add_new(0x01, "LO", PLANTED)
    data.PatientID = PLANTED
    return data


def test_no_name_of_a_header_reaches_an_output(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(0)
    root, out = tmp_path / "own", tmp_path / "out"
    (root / "images").mkdir(parents=True)
    out.mkdir()
    draw = np.random.default_rng(0)
    lines = ["image,patient,split,Edema,Pneumonia"]
    for number in range(6):
        data = planted(draw.integers(0, 4096, (48, 40)).astype(np.uint16))
        save(data, root / "images" / f"{number}.dcm")
        split = ("train", "valid", "test")[number % 3]
        lines.append(f"{number}.dcm,p{number},{split},{number % 2},1")
        mask = root / "masks" / "lungs" / f"{number}.png"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((48, 40), 255 * (number % 2), np.uint8)).save(mask)
    (root / "films.csv").write_text("\n".join(lines) + "\n")
    raw = (root / "images" / "0.dcm").read_bytes()
    assert raw.count(PLANTED.encode()) > 500

    for store, table in read_own(root).items():
        build_store(table, out / store, 32, workers=1)
    own = read_and_check.read_radiographs(root / "images", root / "films.csv", root / "masks")
    build_store(own.films, out / "stranger", 32, workers=1)
    # A header that cannot be read, too: its message must not quote it.
    (root / "images" / "0.dcm").write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match=r"0\.dcm") as error:
        build_store(read_own(root)["films"], out / "broken", 32, workers=1)

    written = {str(p): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    assert len(written) > 8
    told = caplog.text + str(error.value) + "".join(capfd.readouterr())
    for name, content in {**written, "messages": told.encode()}.items():
        for form in (PLANTED.encode(), PLANTED.encode("utf-16-le"), PLANTED.lower().encode()):
            assert form not in content, name


CALLS = """
import socket
s = socket.create_server(("127.0.0.1", 0))
socket.create_connection(s.getsockname()).close()
for call in (lambda: socket.create_connection(("192.0.2.1", 80), 1),
             lambda: socket.getaddrinfo("example.org", 80)):
    try:
        call()
    except OSError as error:
        print(error)
"""


def test_the_network_is_off_where_it_should_be(tmp_path: Path) -> None:
    """The guard of the end-to-end run refuses other machines, and lets loopback through."""
    log = tmp_path / "log"
    env = os.environ | {"PYTHONPATH": str(OFFLINE), "DOLLKIT_OFFLINE": str(log)}
    done = subprocess.run([sys.executable, "-c", CALLS], env=env, capture_output=True, text=True)
    assert done.stdout.count("the network is off") == 2, done.stdout + done.stderr
    assert len(log.read_text().splitlines()) == 2
