"""C2 of all profiles on one page."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dollkit.common import paths
from dollkit.report import c2_overview, claims

STORED = paths.ROOT / "figures" / "across" / "c2.csv"


def contrast(task: str, arm: str, effect: float, **more: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(claims.COLUMNS, 0)
    row |= {"claim": "C2", "contrast": f"doll - {arm}", "task": task, "effect": effect}
    row |= {"lo": effect - 0.01, "hi": effect + 0.01, "network": "pspnet", "n_train": 8}
    row |= {"verdict": claims.UNDECIDED, "decides": True, "n_patients": 40, "n_seeds": 5}
    return row | more


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = {
        "b": [
            contrast("organs", "random", 0.02, verdict=claims.CONFIRMED),
            contrast("lungs", "random", -0.03, verdict=claims.CONTRADICTED),
            contrast("lungs", "random", 0.05, network="unet", decides=False),
            contrast("lungs", "imagenet", np.nan),
            contrast("lungs", "random", 0.5, claim="C3"),
        ],
        "a": [contrast("lungs", "shuffled", 0.004, n_seeds=3)],
    }
    for profile, some in rows.items():
        (tmp_path / profile).mkdir()
        pd.DataFrame(some).to_csv(tmp_path / profile / "claims.csv", index=False)
    monkeypatch.setenv("DOLLKIT_FIGURES", str(tmp_path))
    return tmp_path


def test_one_row_per_profile_network_and_task(figures: Path) -> None:
    table = c2_overview.wide(c2_overview.contrasts(["b", "a"]))
    assert table[["profile", "network", "task"]].to_numpy().tolist() == [
        ["b", "pspnet", "lungs"],
        ["b", "pspnet", "organs"],
        ["b", "unet", "lungs"],
        ["a", "pspnet", "lungs"],
    ]
    assert table["random"].tolist() == [
        "-0.030 [-0.040, -0.020] ↓",
        "+0.020 [+0.010, +0.030] ↑",
        "+0.050 [+0.040, +0.060]",
        "–",
    ]
    assert table["shuffled"].tolist() == ["–"] * 3 + ["+0.004 [-0.006, +0.014]"]
    assert table["seeds"].tolist() == [5, 5, 5, 3]
    assert "imagenet" not in table


def test_files_and_errors(figures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert c2_overview.main([]) == 0
    assert {p.name for p in (figures / "across").iterdir()} == {"c2.csv", "c2.md", "c2.tex"}
    assert r"$\uparrow$" in (figures / "across" / "c2.tex").read_text()
    assert pd.read_csv(figures / "across" / "c2.csv").columns.tolist() == c2_overview.COLUMNS
    assert c2_overview.main(["c"]) == 2
    assert "c/claims.csv: no such file" in capsys.readouterr().err
    (figures / "a" / "claims.csv").write_text("claim\nC2\n")
    assert c2_overview.main(["a"]) == 2
    assert "column 'contrast' is missing" in capsys.readouterr().err


def test_the_stored_page_follows_from_the_stored_claims(tmp_path: Path) -> None:
    profiles = list(dict.fromkeys(pd.read_csv(STORED)["profile"]))
    c2_overview.write(profiles, tmp_path)
    for suffix in (".csv", ".md", ".tex"):
        name = STORED.with_suffix(suffix)
        assert name.read_bytes() == (tmp_path / name.name).read_bytes(), name
