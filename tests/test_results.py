"""The committed results: re-derived from their per-case rows, and no radiograph among them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common import paths
from dollkit.report import claims, label_efficiency, robustness, tables, verify
from dollkit.report import rows as rows_of

REAL = ("open", "to-real", "to-phantom")
"""Profiles some of whose pictures show real films."""

COMMITTED = [
    p
    for p in ("laptop", "desk", "scratch", "gpu", *REAL)
    if (paths.ROOT / "figures" / p / "claims.csv").exists()
]
PICTURES = {".png", ".jpg", ".jpeg", ".svg", ".gif", ".tif", ".tiff", ".bmp", ".webp", ".pdf"}
ARRAYS = {".npy", ".npz", ".pt", ".pkl", ".pickle", ".h5", ".dcm", ".img", ".safetensors"}


def tracked() -> list[Path]:
    try:
        listed = subprocess.run(
            ["git", "ls-files"], cwd=paths.ROOT, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [Path(line) for line in listed.stdout.splitlines()]


def test_no_radiograph_and_no_picture_of_one_is_tracked() -> None:
    for path in tracked():
        suffix = path.suffix.lower()
        assert suffix not in ARRAYS, path
        if suffix in PICTURES:
            if path.as_posix() == "docs/explorer.png":  # of the phantom: drawn from laptop's run
                continue
            assert path.parts[0] == "figures", path
            if path.parts[1] in REAL:
                # Curves and dots only: figures 1 to 3 and S2 show films.
                curves = {f"figure{n}" for n in ("4", "5", "6", "_s1", "_s3", "_s4", "_s5")}
                assert path.stem in curves, path
        if suffix == ".ipynb":
            assert "image/png" not in (paths.ROOT / path).read_text(), path


@pytest.mark.parametrize("profile", REAL)
def test_the_ignore_rules_keep_real_films_out(profile: str) -> None:
    for number in ("1", "2", "3", "_s2"):
        for suffix in ("png", "svg"):
            name = f"figures/{profile}/figure{number}.{suffix}"
            done = subprocess.run(["git", "check-ignore", "-q", name], cwd=paths.ROOT, check=False)
            assert done.returncode in (0, 128), name  # 128: not a git checkout


@pytest.mark.parametrize("profile", COMMITTED)
def test_all_that_can_be_made_anew_is_the_same(profile: str) -> None:
    lines = verify.verify(paths.ROOT / "figures" / profile)
    assert [line for line in lines if line.state == verify.DIFFERS] == []
    same = {line.artefact for line in lines if line.state == verify.SAME}
    assert same >= {"table1", "table2", "table3", "claims", "figure4", "figure6", "figure_s1"}


@pytest.mark.parametrize("profile", COMMITTED)
def test_table1_follows_from_the_rows(profile: str) -> None:
    folder = paths.ROOT / "figures" / profile
    case_rows = pd.read_csv(folder / "cases.csv.gz", dtype={"image_id": str, "patient_id": str})
    runs = pd.read_csv(folder / "runs.csv")
    key = ["task", "network", "n_train", "arm"]
    again = tables.table1(rows_of.check_cases(case_rows), runs).set_index(key)
    stored = pd.read_csv(folder / "table1.csv").set_index(key)
    done = stored[stored["miou"].notna()]
    assert len(done) >= 10  # two tasks with five arms, at the least
    for column in ("miou", "miou_lo", "miou_hi", "dice", "n_cases", "n_seeds"):
        ours, theirs = again.loc[done.index, column], done[column]
        np.testing.assert_allclose(ours.astype(float), theirs.astype(float), atol=1e-6)
    # ... and by plain pandas, to the definition in words.
    full = case_rows[case_rows["tuning"] == "full"]
    per_class = full.groupby([*key, "seed", "class"])["iou"].mean()
    plain = per_class.groupby([*key, "seed"]).mean().groupby(key).mean()
    np.testing.assert_allclose(
        plain.loc[done.index].to_numpy(), done["miou"].to_numpy(dtype=float), atol=1e-6
    )


@pytest.mark.parametrize(
    ("name", "rows"), [("table_sizes", "cases.csv.gz"), ("robustness", "robust.csv.gz")]
)
@pytest.mark.parametrize("profile", COMMITTED)
def test_further_tables_follow_from_the_rows(profile: str, name: str, rows: str) -> None:
    folder = paths.ROOT / "figures" / profile
    if not (folder / f"{name}.csv").exists():
        pytest.skip(f"profile {profile} has no {name}")
    text = {"image_id": str, "patient_id": str}
    plain = pd.read_csv(folder / "cases.csv.gz", dtype=text)
    own = pd.read_csv(folder / rows, dtype=text)
    again = (
        label_efficiency.table_sizes(own) if name == "table_sizes" else robustness.table(own, plain)
    )
    stored = pd.read_csv(folder / f"{name}.csv")
    assert len(again) == len(stored) > 0
    for column in again.columns:
        if again[column].dtype.kind == "f":
            np.testing.assert_allclose(
                again[column], stored[column].astype(float), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("profile", COMMITTED)
def test_claims_follow_from_the_rows(profile: str) -> None:
    folder = paths.ROOT / "figures" / profile
    labels = pd.read_csv(folder / "label_cases.csv.gz", dtype={"image_id": str, "patient_id": str})
    again = claims.evaluate(
        labels,
        pd.read_csv(folder / "cases.csv.gz", dtype={"image_id": str, "patient_id": str}),
        pd.read_csv(folder / "curves.csv.gz"),
        pd.read_csv(folder / "runs.csv"),
    )
    stored = pd.read_csv(folder / "claims.csv")
    key = ["claim", "contrast", "task", "network"]
    again["network"] = again["network"].replace("", np.nan)  # as a CSV reads it
    both = again.merge(stored, on=key, suffixes=("", "_stored"))
    assert len(both) >= 10
    np.testing.assert_allclose(both["effect"].astype(float), both["effect_stored"], atol=1e-5)
    assert (both["verdict"] == both["verdict_stored"]).all()


@pytest.mark.parametrize("profile", COMMITTED)
def test_iou_and_dice_follow_from_the_pixel_counts(profile: str) -> None:
    rows = pd.read_csv(paths.ROOT / "figures" / profile / "cases.csv.gz")
    tp, fp, fn = (rows[c].astype(float) for c in ("tp", "fp", "fn"))
    np.testing.assert_allclose(rows["iou"], tp / (tp + fp + fn), atol=1e-5)
    np.testing.assert_allclose(rows["dice"], 2 * tp / (2 * tp + fp + fn), atol=1e-5)


@pytest.mark.skipif("laptop" not in COMMITTED, reason="no committed laptop results")
def test_laptop_classifiers_reach_what_the_phantom_promises() -> None:
    scores = pd.read_csv(paths.ROOT / "figures" / "laptop" / "classifiers.csv")
    macro = scores[scores["finding"] == "macro"].set_index("classifier")["auroc"]
    assert len(macro) >= 3
    assert macro.min() >= 0.90, macro.to_dict()
    assert scores.loc[scores["finding"] == "Fracture", "n_pos"].min() >= 20


@pytest.mark.parametrize("profile", COMMITTED)
def test_provenance_names_what_made_it(profile: str) -> None:
    record = json.loads((paths.ROOT / "figures" / profile / "provenance.json").read_text())
    # A run that went on after a change of some stage names each stage's own commit.
    own = [s.get("environment", {}).get("code") for s in record["stages"].values()]
    made_by = [record["environment"]["code"]] if record["commit"] else own
    assert all(len(code["commit"]) == 40 and not code["modified"] for code in made_by)
    assert record["profile"] == profile
    families = {name.split("/")[0] for name in record["stages"]}
    assert {"data", "labels", "pretrain", "finetune", "tables"} <= families
    assert str(Path.home()) not in json.dumps(record)
    assert not any(str(v).startswith("/") for v in record["data"])


@pytest.mark.skipif("laptop" not in COMMITTED, reason="no committed laptop results")
def test_readme_shows_the_real_table_1() -> None:
    """One row per start, one column per task: mean IoU and its interval."""
    readme = (paths.ROOT / "README.md").read_text()
    table = pd.read_csv(paths.ROOT / "figures" / "laptop" / "table1.csv")
    ran = table[table["miou"].notna()]
    assert {"random", "imagenet", "classifier", "doll", "shuffled", "truth"} <= set(ran["arm"])
    for arm, rows in ran.groupby("arm"):
        by_task = rows.set_index("task")
        cells = [
            "{miou:.3f} [{miou_lo:.3f}, {miou_hi:.3f}]".format(**by_task.loc[task])
            for task in ("lungs", "infection", "organs")
        ]
        assert f"| {' | '.join(cells)} |" in readme, arm


def test_readme_pictures_and_links_exist() -> None:
    readme = (paths.ROOT / "README.md").read_text()
    links = [part.split(")")[0] for part in readme.split("](")[1:]]
    assert links
    for link in links:
        assert link.startswith("http") or (paths.ROOT / link).exists(), link
