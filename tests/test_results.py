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
from dollkit.report import verify

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
        # docs/explorer.png is of the phantom: drawn from laptop's run.
        if suffix in PICTURES and path.as_posix() != "docs/explorer.png":
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


def test_readme_shows_the_real_table_1() -> None:
    """One row per start, one column per task: mean IoU and its interval."""
    readme = (paths.ROOT / "README.md").read_text()
    table = pd.read_csv(FIGURES / "laptop" / "table1.csv")
    ran = table[table["miou"].notna()]
    assert {"random", "imagenet", "classifier", "doll", "shuffled", "truth"} <= set(ran["arm"])
    cell = "{miou:.3f} [{miou_lo:.3f}, {miou_hi:.3f}]"
    for arm, rows in ran.groupby("arm"):
        of = rows.set_index("task")
        cells = [cell.format(**of.loc[task]) for task in ("lungs", "infection", "organs")]
        assert f"| {' | '.join(cells)} |" in readme, arm


def test_readme_pictures_and_links_exist() -> None:
    links = re.findall(r"\]\(([^)]*)\)", (paths.ROOT / "README.md").read_text())
    assert links
    for link in links:
        assert link.startswith("http") or (paths.ROOT / link).exists(), link


QUOTED = re.compile(r"\| ([^|]*) \| \[[^\]]*\]\(([^)]+)\) `([^`|]+)`(?: where `([^`|]+)`)? \|$")


def told(value: float) -> str:
    whole = abs(value) >= 100 or float(value).is_integer()
    return f"{value:,.0f}" if whole else f"{value:.3f}"


def test_the_numbers_of_the_card_are_those_of_the_results() -> None:
    """Of one row a number and its interval; of several the lowest and the highest."""
    lines = CARD.read_text(encoding="utf-8").splitlines()
    quoting = [line for line in lines if line.startswith("|") and ("csv" in line or "json" in line)]
    assert len(quoting) > 10
    for line in quoting:
        found = QUOTED.search(line)
        assert found, line
        stated, file, columns, query = found.groups()
        path = CARD.parent / file
        if path.suffix == ".json":
            assert stated == told(json.loads(path.read_text())[columns]), line
            continue
        rows = pd.read_csv(path)
        values = (rows.query(query) if query else rows)[columns.split(", ")].dropna()
        first, *interval = map(told, values.iloc[0])
        known = f"{first} [{', '.join(interval)}]" if interval else first
        if len(values) > 1:
            known = f"{told(values.iloc[:, 0].min())} to {told(values.iloc[:, 0].max())}"
        assert stated == known, line


def test_the_card_says_what_a_card_must_and_no_other_number_of_a_result() -> None:
    text = CARD.read_text(encoding="utf-8")
    assert "Not a medical device" in text
    for title in ("Data", "Known failures", "Bias", "On weak labels", "Licences", "Compute"):
        assert f"\n## {title}\n" in text
    # A decimal fraction in the prose would be one that nothing holds against the results.
    prose = "\n".join(p for p in text.split("\n") if not QUOTED.search(p))
    found = re.findall(r"(?<![\w.])\d+\.\d+(?![\w.])", re.sub(r"arXiv \S+", "", prose))
    assert [number for number in found if number != "2.0"] == []
