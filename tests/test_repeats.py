"""Arms that are pre-trained several times: where networks lie, which run starts from which."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn

from dollkit import pretraining
from dollkit.common import compute
from dollkit.finetuning import grid, run
from dollkit.finetuning import starts as arms
from dollkit.report import c2_overview, claims, label_tables
from dollkit.training import networks, weights
from dollkit.workflow import plan_hours
from tests import synthetic_run as synthetic
from tests.test_segmentation import ENCODER, make_grid

CONFIG = {"encoder": ENCODER, "depth": 3, "activation": "silu"}


def pretrained(folder: Path, repeats: int) -> list[Path]:
    """An arm's networks with weights of their own."""
    made = pretraining.folders_of(folder, repeats)
    for seed, one in enumerate(made):
        with compute.seeded(seed):
            net = networks.build("pspnet", **CONFIG, classes=14)
        weights.save(net, one, networks.config_of(net))
    return made


def first_weight(net: nn.Module) -> torch.Tensor:
    return next(iter(net.parameters())).detach().clone()


def test_folders_of_an_arm_and_what_is_left_of_more(tmp_path: Path) -> None:
    made = pretrained(tmp_path / "doll", 12)
    assert made[0] == tmp_path / "doll"
    assert pretraining.made_in(tmp_path / "doll") == made  # repeat10 after repeat9
    again = pretraining.folders_of(tmp_path / "doll", 2)
    assert again == made[:2]
    assert pretraining.made_in(tmp_path / "doll") == made[:2]
    assert not made[5].exists()
    assert (made[0] / weights.FILE).is_file()
    # One that a killed run had only begun holds no network.
    (tmp_path / "doll" / "repeat2").mkdir()
    assert pretraining.made_in(tmp_path / "doll") == made[:2]


def test_seeds_take_the_networks_in_turns(tmp_path: Path) -> None:
    made = pretrained(tmp_path / "doll", 3)
    start = arms.starts(["doll"], {}, {"doll": made[0]}, "pspnet", CONFIG)["doll"]
    want = [first_weight(weights.load_network(one, torch.device("cpu"))) for one in made]
    for seed in range(6):
        net = networks.build("pspnet", **CONFIG, classes=2)
        start.of(seed).load(net)
        assert first_weight(net).equal(want[seed % 3])
    assert len({start.of(seed).key for seed in range(3)}) == 3
    alone = replace(start, others=())
    assert {alone.of(seed).key for seed in range(6)} == {start.key}


def test_every_run_of_the_grid_starts_from_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, float]] = []
    real = run.fit

    def watched(net: nn.Module, *args: object, **given: object) -> object:
        recipe = args[2]
        seen.append((recipe.seed, float(first_weight(net).sum())))  # type: ignore[attr-defined]
        return real(net, *args, **given)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "fit", watched)
    made = pretrained(tmp_path / "doll", 2)
    starts = arms.starts(["doll"], {}, {"doll": made[0]}, "pspnet", CONFIG)
    given = {"starts": starts, "tunings": {"full": (["doll"], [1e-3])}, "seeds": [0, 1, 2]}
    (tmp_path / "out").mkdir()
    whole = make_grid(tmp_path, **given)
    frames = grid.execute(whole)
    sums = [float(first_weight(weights.load_network(f, torch.device("cpu"))).sum()) for f in made]
    assert seen == [(0, sums[0]), (1, sums[1]), (2, sums[0])]

    # The kept network tells which of them it started from.
    job = run.Job(*frames["runs"].iloc[0][list(run.Job.__dataclass_fields__)])
    (kept,) = (tmp_path / "out" / "networks").iterdir()
    run.restored(kept, job, whole.config, 1, starts["doll"])

    # Another second network makes the runs from it anew, and no others.
    with compute.seeded(9):
        net = networks.build("pspnet", **CONFIG, classes=14)
    weights.save(net, made[1], networks.config_of(net))
    seen.clear()
    starts = arms.starts(["doll"], {}, {"doll": made[0]}, "pspnet", CONFIG)
    grid.execute(make_grid(tmp_path, **{**given, "starts": starts}))
    assert [seed for seed, _ in seen] == [1]


def test_tables_take_the_mean_of_the_networks_and_count_them() -> None:
    one = synthetic.pretraining_rows()
    two = pd.concat([one, one.assign(seed=1, label_iou=one["label_iou"] / 2)])
    assert label_tables.repeats(one) == 1
    assert label_tables.repeats(two) == 2
    assert label_tables.repeats(two[(two["arm"] != "shuffled") | (two["seed"] == 0)]) == 1
    assert label_tables.repeats(two[(two["arm"] != "truth") | (two["seed"] == 0)]) == 2
    assert label_tables.repeats(one.iloc[:0]) == 0
    cases = synthetic.segmentation_cases(tasks=["lungs"], patients=4)
    table = label_tables.table(two, cases).set_index("arm")
    want = one.set_index("arm")["label_iou"] * 0.75
    assert table.loc["doll", "label_iou"] == pytest.approx(want["doll"])
    pd.testing.assert_series_equal(
        table["miou"], label_tables.table(one, cases).set_index("arm")["miou"]
    )


@pytest.mark.parametrize(
    ("repeats", "counted", "covered"),
    [
        (0, "Seeds per trained network: 3. A", "each arm was pre-trained once"),
        (1, "3; pre-training runs per arm: 1. A", "each arm was pre-trained once"),
        (2, "3; pre-training runs per arm: 2. A", "included (2 pre-training runs of each arm, "),
        (3, "3; pre-training runs per arm: 3. A", "training runs, pre-training included."),
    ],
)
def test_claims_say_what_their_intervals_cover(
    repeats: int, counted: str, covered: str, tmp_path: Path
) -> None:
    cases = synthetic.segmentation_cases(tasks=["lungs"], patients=4)
    curves = synthetic.learning_curves(cases)
    rows = claims.evaluate(None, cases, curves, synthetic.run_rows(curves))
    claims.write_claims(rows, tmp_path, profile="p", population="q", repeats=repeats)
    text = (tmp_path / "claims.md").read_text()
    assert counted in text
    assert covered in text
    assert "COVERED" not in text


def test_gathered_contrasts_tell_how_often_an_arm_was_pre_trained() -> None:
    frame = c2_overview.contrasts(["laptop"])
    assert set(frame["n_pretrained"]) == {1}
    assert "pre-trained" in c2_overview.wide(frame)


def test_the_plan_counts_every_network() -> None:
    found = plan_hours.recorded(f"{plan_hours.BASE}/provenance.json")
    assert found is not None
    work = plan_hours.work_of(found[1], {"": 6.0})
    stages = found[1]["stages"]
    given = next(s["parameters"] for n, s in stages.items() if n.startswith("pretrain/"))
    one, three = (work.of("pretrain", {**given, "repeats": n}) for n in (1, 3))
    assert three == pytest.approx(3 * one)
    assert work.of("pretrain", {k: v for k, v in given.items() if k != "repeats"}) == one
