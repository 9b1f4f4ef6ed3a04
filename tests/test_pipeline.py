"""What is run again and what is not, shown by a toy pipeline under the real Snakefile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.workflow import sources, stages
from dollkit.workflow.reproduce import check_knobs, drop_damaged, release_stale_lock
from tests.toys import write_notebook

SMALL = "matrix: {architectures: [a], networks: [pspnet], arms: [], tasks: [], encoder: a}\n"


def reproduce(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m dollkit.workflow.reproduce` in its own process, both streams as one text."""
    command = [sys.executable, "-m", "dollkit.workflow.reproduce", *arguments]
    environment = os.environ | {"PYTHONPATH": str(paths.ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def ran(output: str) -> list[str]:
    """Stages that the closing summary says have run."""
    return [line.split()[0] for line in output.splitlines() if line.endswith("s  ran")]


def test_instances_and_inputs_of_a_profile(toy: Path) -> None:
    plan = {i.name: i for i in stages.plan("toy")}
    assert list(plan) == [
        "data",
        "classifiers/a",
        "classifiers/b",
        "labels",
        "pretrain/pspnet-doll",
        "finetune/pspnet-lungs",
        "tables",
        "figures",
        "claims",
        "cost",
    ]
    assert plan["labels"].inputs == ("data", "classifiers/a", "classifiers/b")
    assert plan["pretrain/pspnet-doll"].inputs == (
        "data", "labels", "classifiers/a", "classifiers/b",
    )  # fmt: skip
    assert plan["finetune/pspnet-lungs"].inputs == ("data", "pretrain/pspnet-doll", "classifiers/a")
    assert plan["classifiers/b"].parameters["architecture"] == "b"
    assert plan["data"].parameters == {"profile": "toy", "size": 4}
    order = list(plan)
    assert all(order.index(i) < order.index(n) for n, p in plan.items() for i in p.inputs)


def test_a_network_is_tuned_from_those_of_its_own_kind(toy: Path) -> None:
    profile = (toy / "notebooks/params/toy.yaml").read_text()
    several = profile.replace("[pspnet]", "[pspnet, unet]").replace("[doll]", "[doll, truth]")
    sections = "pretraining: {size: 5}\npretrain/truth: {size: 6}\npretrain/unet-truth: {size: 7}\n"
    (toy / "notebooks/params/toy.yaml").write_text(several + sections)
    plan = {i.name: i for i in stages.plan("toy")}
    made = {n: p.parameters["size"] for n, p in plan.items() if n.startswith("pretrain/")}
    assert made == {
        "pretrain/pspnet-doll": 5,
        "pretrain/pspnet-truth": 6,
        "pretrain/unet-doll": 5,
        "pretrain/unet-truth": 7,
    }
    assert plan["finetune/unet-lungs"].inputs == (
        "data", "pretrain/unet-doll", "pretrain/unet-truth", "classifiers/a",
    )  # fmt: skip
    assert plan["finetune/unet-lungs"].parameters["network"] == "unet"
    assert set(made) < set(plan["tables"].inputs)


def test_a_file_of_weights_is_an_input(toy: Path) -> None:
    (toy / "w.pth").write_text("")
    for named, files in ((str(toy / "w.pth"), [toy / "w.pth"]), ("no.pth", []), ("", [])):
        write_notebook(
            toy / "notebooks/05_finetuning.ipynb",
            parameters='profile: str = "toy"  # name\nnetwork: str = "pspnet"  # which\n'
            f'task: str = "lungs"  # which\nimagenet_weights: str = "{named}"  # file\n',
        )
        plan = {i.name: i for i in stages.plan("toy")}
        assert [f for f in plan["finetune/pspnet-lungs"].files if f.suffix == ".pth"] == files


def test_a_file_of_thresholds_is_an_input(toy: Path) -> None:
    book, own = toy / "notebooks/03_labels.ipynb", toy / "own.csv"
    own.write_text("finding,rule\n")
    for named, files in ((str(own), [own]), ("peak 0.5", []), ("none.csv", [])):
        write_notebook(
            book, parameters=f'profile: str = "toy"  # name\nthreshold: str = "{named}"  # rule\n'
        )
        plan = {i.name: i for i in stages.plan("toy")}
        assert [f for f in plan["labels"].files if f.suffix == ".csv"] == files


def test_modules_are_followed_through_every_form_of_import(toy: Path) -> None:
    kit = toy / "toykit"
    (kit / "sub").mkdir()
    (kit / "sub/__init__.py").write_text("from .inner import x\n")
    (kit / "sub/inner.py").write_text("def x():\n    from ..sums import total\n    return total\n")
    (kit / "lone.py").write_text("import toykit.draw as d, os\n")
    (kit / "unused.py").write_text("")
    book = toy / "notebooks/09.ipynb"

    def found(source: str) -> set[str]:
        write_notebook(book, source)
        return {p.relative_to(kit).as_posix() for p in sources.source_files(book)}

    assert found("import numpy as np") == set()
    assert found("%matplotlib inline\nfrom toykit import UNIT") == {"__init__.py"}
    assert found("from toykit import draw") == {"__init__.py", "draw.py", "base.py"}
    assert found("import toykit.lone") == {"__init__.py", "lone.py", "draw.py", "base.py"}
    assert found("def f():\n    from toykit.sub import inner") == {
        "__init__.py",
        "sub/__init__.py",
        "sub/inner.py",
        "sums.py",
    }


def test_our_own_modules_are_followed(toy: Path) -> None:
    files = {p.name for p in stages.plan("toy")[0].files}
    assert {"stage.py", "parameters.py", "stages.py", "errors.py", "__init__.py"} <= files
    assert "run.py" not in files, "how a stage is started does not change its result"


def test_only_what_depends_on_a_change_runs_again(toy: Path) -> None:
    """The promise of `make reproduce`, in one sequence to keep it short."""
    params_file = toy / "notebooks/params/toy.yaml"
    two = SMALL.replace("[a]", "[a, b]")  # two kernels at once
    params_file.write_text(two)
    made = ["data", "classifiers/a", "classifiers/b", "labels"]
    everything = [*made, "tables", "figures", "claims", "cost"]

    first = reproduce("--profile", "toy", "--jobs", "2")
    assert first.returncode == 0, first.stdout
    assert ran(first.stdout) == everything
    last = "not compared with committed results: profile toy has no committed results"
    assert first.stdout.splitlines()[-1] == last

    params_file.touch()
    for file in [*toy.glob("toykit/*.py"), *toy.glob("notebooks/*.ipynb")]:
        file.touch()
    second = reproduce("--profile", "toy")
    assert second.returncode == 0, second.stdout
    assert ran(second.stdout) == []
    assert "nothing to do: all 8 stages of profile toy are up to date" in second.stdout

    params_file.write_text(f"{two}figures: {{dpi: 60}}\n")
    third = reproduce("--profile", "toy")
    assert third.returncode == 0, third.stdout
    assert ran(third.stdout) == ["figures", "claims"]
    assert "reason: Params have changed" in third.stdout
    assert "dpi = 60" in third.stdout
    assert (toy / "runs/toy/figures/result.txt").read_text() == "60"

    (toy / "toykit/base.py").write_text("UNIT = 2\n")  # figures use it through draw
    fourth = reproduce("--profile", "toy")
    assert fourth.returncode == 0, fourth.stdout
    assert ran(fourth.stdout) == ["figures", "claims"]
    assert "reason: Updated input files: ../../toykit/base.py" in fourth.stdout
    assert (toy / "runs/toy/figures/result.txt").read_text() == "120"


def test_a_failed_stage_is_named_last_and_leaves_no_manifest(toy: Path) -> None:
    (toy / "notebooks/params/toy.yaml").write_text(SMALL)
    write_notebook(
        toy / "notebooks/01_data.ipynb",
        'from dollkit.common.errors import *\nraise InputError("films.csv row 3: no file x.png")',
    )
    done = reproduce("--profile", "toy")
    assert done.returncode == 1
    assert "data: films.csv row 3: no file x.png (log: " in done.stdout.splitlines()[-1]
    assert not (toy / "runs/toy/data/manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "nope"], "unknown profile 'nope': use one of toy"),
        (["--profile", "toy", "--jobs", "0"], "JOBS=0: "),
        (["--profile", "toy", "--jobs", "two"], "JOBS=two: "),
        (["--profile", "toy", "--device", "gpu"], "DEVICE=gpu: use one of auto, cpu, cuda"),
        (["--profile", "toy", "--data", "nowhere"], "DATA=nowhere: no such folder"),
        (["--profile", "toy", "--data", "."], "profile toy makes its own films: leave DATA out"),
    ],
)
def test_bad_knobs_are_one_line(toy: Path, arguments: list[str], message: str) -> None:
    done = reproduce(*arguments)
    assert done.returncode == 2
    assert done.stdout.startswith(message)
    assert len(done.stdout.splitlines()) == 1
    assert not (toy / "runs").exists()


def test_runs_folder_that_cannot_be_written(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (toy / "blocked").write_text("")
    monkeypatch.setenv("DOLLKIT_RUNS", str(toy / "blocked"))
    done = reproduce("--profile", "toy")
    assert done.returncode == 2
    assert "cannot be written to" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_profile_that_needs_data(toy: Path) -> None:
    params_file = toy / "notebooks/params/toy.yaml"
    params_file.write_text(f"{SMALL}needs_data: true\n")
    with pytest.raises(InputError, match="give it as DATA=dir"):
        stages.plan("toy")
    with pytest.raises(InputError, match="no notebook declares 'data_dir'"):
        stages.plan("toy", toy)
    book = toy / "notebooks/01_data.ipynb"
    book.write_text(book.read_text().replace("size: int", "data_dir: str = ''  # x\\nsize: int"))
    plan = stages.plan("toy", toy)
    assert plan[0].parameters["data_dir"] == str(toy)
    assert "data_dir" not in plan[1].parameters


def test_an_artefact_whose_file_is_gone_is_made_again(toy: Path) -> None:
    folder = toy / "runs/toy/data"
    folder.mkdir(parents=True)
    (folder / "kept").write_text("")
    text = '{"outputs": {"kept": {}}, "report": {"toy/table1.csv": {}}}'
    (folder / "manifest.json").write_text(text)
    table = toy / "figures/toy/table1.csv"
    table.parent.mkdir(parents=True)
    table.write_text("")
    assert drop_damaged(["data"], "toy") == []
    table.unlink()
    (line,) = drop_damaged(["data"], "toy")
    assert "table1.csv is gone" in line
    assert not (folder / "manifest.json").exists()


def test_the_lock_of_a_killed_run_is_released_but_not_that_of_a_live_one(toy: Path) -> None:
    folder = toy / "runs/toy"
    assert release_stale_lock(folder) is False
    lock = folder / ".snakemake/locks/0.input.lock"
    lock.parent.mkdir(parents=True)
    lock.write_text("x")
    wait = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", wait, "snakemake"],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as live:
        assert live.stdout is not None
        live.stdout.readline()
        with pytest.raises(InputError, match=f"process {live.pid}"):
            release_stale_lock(folder)
        assert lock.exists()
        live.communicate()
    assert release_stale_lock(folder) is True
    assert not lock.exists()


def test_knobs_as_make_gives_them(toy: Path) -> None:
    assert check_knobs("toy", "", "2", "auto") == (None, 2)
    assert check_knobs("toy", str(toy / "toykit/.."), "1", "cpu") == (toy, 1)


def test_the_stages_of_the_real_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOLLKIT_NOTEBOOKS", raising=False)
    found = sorted((paths.NOTEBOOKS / "params").glob("*.yaml"))
    if not found:
        pytest.skip("no profiles here")
    assert {f.stem for f in found} >= {"smoke", "laptop", "open", "paper"}
    for file in found:
        needs = "needs_data: true" in file.read_text()
        plan = stages.plan(file.stem, paths.ROOT if needs else None)
        assert plan[0].name == "data"
        encoder = stages.matrix(file.stem).encoder
        assert {i.parameters.get("encoder", encoder) for i in plan} == {encoder}
