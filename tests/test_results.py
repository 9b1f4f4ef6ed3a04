"""The committed results: made again from their per-case rows, and no radiograph among them."""

from __future__ import annotations

import json
import re
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common import paths
from dollkit.report import claims, verify

FIGURES = paths.ROOT / "figures"
REAL = ("open", "to-real", "to-phantom")
"""Profiles some of whose pictures show real films."""

QUICK = ("laptop", "open")
LONG = ("desk", "to-real", "to-phantom")
SLOW = [pytest.param(p, marks=pytest.mark.slow) for p in LONG]
PICTURES = {".png", ".jpg", ".jpeg", ".svg", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".pdf"}
ARRAYS = {".npy", ".npz", ".pt", ".pkl", ".pickle", ".h5", ".dcm", ".img", ".safetensors"}
CARD = paths.ROOT / "docs" / "card.md"


def test_no_radiograph_and_no_picture_of_one_is_tracked() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=paths.ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for path in map(Path, listed.stdout.splitlines()):
        suffix = path.suffix.lower()
        assert suffix not in ARRAYS, path
        # Two of the phantom: from laptop's run, and of the example of notebook 11.
        if suffix in PICTURES and path.as_posix() not in ("docs/explorer.png", "docs/check.png"):
            assert path.parts[0] == "figures", path
            # Curves and dots only: figures 1 to 3 and S2 show films.
            curves = {f"figure{n}" for n in ("4", "5", "6", "_s1", "_s3", "_s4", "_s5")}
            assert path.parts[1] not in REAL or path.stem in curves, path
        if suffix == ".ipynb":
            assert "image/png" not in (paths.ROOT / path).read_text(), path


def test_the_ignore_rules_keep_real_films_out() -> None:
    for profile, n, end in product(REAL, ("1", "2", "3", "_s2"), ("png", "svg")):
        name = f"figures/{profile}/figure{n}.{end}"
        done = subprocess.run(["git", "check-ignore", "-q", name], cwd=paths.ROOT, check=False)
        assert done.returncode in (0, 128), name  # 128: not a git checkout


@pytest.mark.parametrize("profile", [*QUICK, *SLOW])
def test_all_that_can_be_made_again_is_the_same(profile: str) -> None:
    lines = verify.verify(FIGURES / profile)
    assert [line for line in lines if line.state == verify.DIFFERS] == []
    same = {line.artefact for line in lines if line.state == verify.SAME}
    assert same >= {
        "table1", "table2", "table3", "claims", "labels", "index",
        "label_losses", "figure4", "figure6", "figure_s3", "figure_s5",
    }  # fmt: skip


@pytest.mark.parametrize("profile", QUICK)
def test_table1_follows_from_the_rows_by_plain_pandas(profile: str) -> None:
    key = ["task", "network", "n_train", "arm"]
    rows = pd.read_csv(FIGURES / profile / "cases.csv.gz", dtype={"image_id": str})
    full = rows[rows["tuning"] == "full"]
    per_class = full.groupby([*key, "seed", "class"])["iou"].mean()
    plain = per_class.groupby([*key, "seed"]).mean().groupby(key).mean()
    stored = pd.read_csv(FIGURES / profile / "table1.csv").set_index(key)["miou"].dropna()
    assert len(stored) >= 10  # two tasks with five arms, at the least
    np.testing.assert_allclose(plain.loc[stored.index], stored.astype(float), atol=1e-6)


def test_laptop_classifiers_reach_what_the_phantom_promises() -> None:
    scores = pd.read_csv(FIGURES / "laptop" / "classifiers.csv")
    macro = scores[scores["finding"] == "macro"].set_index("classifier")["auroc"]
    assert len(macro) >= 2  # several
    assert macro.min() >= 0.90, macro.to_dict()
    assert scores.loc[scores["finding"] == "Fracture", "n_pos"].min() >= 20


@pytest.mark.parametrize("profile", verify.committed_profiles())
def test_provenance_names_what_made_it(profile: str) -> None:
    record = json.loads((FIGURES / profile / "provenance.json").read_text())
    # A run that went on after a change of some stage names each stage's own commit.
    own = [s.get("environment", {}).get("code") for s in record["stages"].values()]
    made_by = [record["environment"]["code"]] if record["commit"] else own
    assert all(len(code["commit"]) == 40 and not code["modified"] for code in made_by)
    assert record["profile"] == profile
    families = {name.split("/")[0] for name in record["stages"]}
    assert {"data", "labels", "pretrain", "finetune", "tables"} <= families
    assert str(Path.home()) not in json.dumps(record)
    assert not any(str(v).startswith("/") for v in record["data"])


def test_readme_shows_what_doll_gives() -> None:
    """Differences to other initialisations, for each task and over all."""
    readme = (paths.ROOT / "README.md").read_text()
    rows = claims.read_claims(FIGURES / "desk").query("claim == 'C2'")
    for question in claims.QUESTIONS:
        for cells in claims.matrix(rows[rows["question"] == question]).to_numpy().tolist():
            assert f"| {' | '.join(cells[1:])} |" in readme, cells[0]


def test_readme_pictures_and_links_exist() -> None:
    text = (paths.ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]*)\)", text) + re.findall(r'src="([^"]*)"', text)
    assert len(links) > 10
    for link in links:
        assert link.startswith("http") or (paths.ROOT / link).exists(), link


def test_the_numbers_in_notebooks_are_those_of_the_results() -> None:
    lines = [line for page in paths.NOTEBOOKS.glob("*.ipynb") for line in verify.quoted(page)]
    assert len(lines) > 10
    assert [line for line, stated, known in lines if stated != known] == []


@pytest.mark.parametrize("page", verify.PAGES[:3])
def test_the_numbers_of_a_page_are_those_of_the_results(page: str) -> None:
    lines = verify.quoted(paths.ROOT / page)
    assert len(lines) > 10
    for line, stated, known in lines:
        assert stated == known, line
    # A decimal fraction in the prose would be one that nothing holds against the results.
    text = (paths.ROOT / page).read_text(encoding="utf-8")
    prose = "\n".join(p for p in text.split("\n") if not verify.QUOTED.search(p))
    found = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", re.sub(r"arXiv \S+", "", prose))
    assert [number for number in found if number != "2.0"] == []


def test_the_card_says_what_a_card_must() -> None:
    text = CARD.read_text(encoding="utf-8")
    assert "Not a medical device" in text
    for title in ("Data", "Known failures", "Bias", "On weak labels", "Licences", "Compute"):
        assert f"\n## {title}\n" in text
