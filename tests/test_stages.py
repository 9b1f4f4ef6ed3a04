"""Which instances a profile has and what they are made from; what a stage does first and last."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.workflow import stages
from dollkit.workflow.run import run
from dollkit.workflow.stage import RunningStage, begin, read_manifest
from tests.small_files import error_of
from tests.toys import write_notebook

MATRIX = (
    "matrix: {architectures: [a], networks: [pspnet], arms: [doll], tasks: [lungs], encoder: a}\n"
)


def profile(toy: Path, text: str) -> None:
    (toy / "notebooks/params/toy.yaml").write_text(text)


def test_instances_and_inputs_of_a_profile(toy: Path) -> None:
    plan = {i.name: i for i in stages.plan("toy")}
    made = ["data", "classifiers/a", "classifiers/b", "labels"]
    trained = ["pretrain/pspnet-doll", "finetune/pspnet-lungs"]
    assert list(plan) == [*made, *trained, "tables", "figures", "claims", "cost"]
    classifiers = ("classifiers/a", "classifiers/b")
    assert plan["labels"].inputs == ("data", *classifiers)
    assert plan["pretrain/pspnet-doll"].inputs == ("data", "labels", *classifiers)
    assert plan["finetune/pspnet-lungs"].inputs == ("data", "pretrain/pspnet-doll", "classifiers/a")
    assert plan["classifiers/b"].parameters["architecture"] == "b"
    assert plan["data"].parameters == {"profile": "toy", "size": 4}
    order = list(plan)
    assert all(order.index(i) < order.index(n) for n, p in plan.items() for i in p.inputs)


def test_a_network_is_tuned_from_those_of_its_own_kind(toy: Path) -> None:
    text = (toy / "notebooks/params/toy.yaml").read_text()
    several = text.replace("[pspnet]", "[pspnet, unet]").replace("[doll]", "[doll, truth]")
    sections = "pretraining: {size: 5}\npretrain/truth: {size: 6}\npretrain/unet-truth: {size: 7}\n"
    profile(toy, several + sections)
    plan = {i.name: i for i in stages.plan("toy")}
    made = {n: p.parameters["size"] for n, p in plan.items() if n.startswith("pretrain/")}
    # The section of one instance wins over that of an item, and that over its stage's.
    names = [f"pretrain/{name}" for name in ("pspnet-doll", "pspnet-truth", "unet-doll")]
    assert made == dict(zip([*names, "pretrain/unet-truth"], (5, 6, 5, 7), strict=True))
    assert plan["finetune/unet-lungs"].inputs == (
        "data", "pretrain/unet-doll", "pretrain/unet-truth", "classifiers/a",
    )  # fmt: skip
    assert set(made) < set(plan["tables"].inputs)


@pytest.mark.parametrize(
    ("book", "more", "instance", "line"),
    [
        ("05_finetuning", 'network: str = "pspnet"  # which\ntask: str = "lungs"  # which\n',
         "finetune/pspnet-lungs", 'imagenet_weights: str = "{}"  # file\n'),
        ("03_labels", "", "labels", 'threshold: str = "{}"  # rule\n'),
    ],
)  # fmt: skip
def test_named_files_are_inputs(toy: Path, book: str, more: str, instance: str, line: str) -> None:
    own = toy / "own.csv"
    own.write_text("")
    for named, files in ((str(own), [own]), ("none.csv", []), ("", [])):
        cell = f'profile: str = "toy"  # name\n{more}{line.format(named)}'
        write_notebook(toy / f"notebooks/{book}.ipynb", parameters=cell)
        plan = {i.name: i for i in stages.plan("toy")}
        assert [f for f in plan[instance].files if f.suffix == ".csv"] == files


def test_modules_are_followed_wherever_an_import_stands(toy: Path) -> None:
    kit, book = toy / "toykit", toy / "notebooks/09.ipynb"
    (kit / "sub").mkdir()
    (kit / "sub/__init__.py").write_text("from toykit.sub.inner import x\n")
    (kit / "sub/inner.py").write_text("def x():\n    from toykit.sums import total\n")
    (kit / "lone.py").write_text("import toykit.draw as d, os\n")
    (kit / "unused.py").write_text("")

    def found(source: str) -> set[str]:
        write_notebook(book, source)
        return {p.relative_to(kit).as_posix() for p in stages.source_files(book)}

    assert found("import numpy as np") == set()
    assert found("%matplotlib inline\nfrom toykit import UNIT") == {"__init__.py"}
    assert found("from toykit import draw") == {"__init__.py", "draw.py", "base.py"}
    assert found("import toykit.lone") == {"__init__.py", "lone.py", "draw.py", "base.py"}
    inner = {"__init__.py", "sub/__init__.py", "sub/inner.py", "sums.py"}
    assert found("def f():\n    from toykit.sub import inner") == inner


def test_a_profile_that_needs_data(toy: Path) -> None:
    profile(toy, f"{MATRIX}needs_data: true\n")
    assert "give it as DATA=dir" in error_of(stages.plan, "toy")
    assert "no notebook declares 'data_dir'" in error_of(stages.plan, "toy", toy)
    book = toy / "notebooks/01_data.ipynb"
    book.write_text(book.read_text().replace("size: int", "data_dir: str = ''  # x\\nsize: int"))
    plan = stages.plan("toy", toy)
    assert plan[0].parameters["data_dir"] == str(toy)
    assert "data_dir" not in plan[1].parameters


def test_a_film_that_is_added_changes_the_state_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    before = stages.tree_state(tmp_path)
    (tmp_path / "sub/.hidden").write_text("x")
    assert stages.tree_state(tmp_path) == before
    (tmp_path / "sub/a.png").write_text("x")
    after = stages.tree_state(tmp_path)
    assert after != before
    (tmp_path / "sub/a.png").write_text("xx")
    assert stages.tree_state(tmp_path) != after


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("common: {sise: 4}", "no notebook declares 'sise'; did you mean 'size'?"),
        ("data: {size: big}", "data: parameter 'size' is 'big'"),
        ("dota: {size: 4}", "unknown section 'dota'; did you mean 'data'?"),
        ("data: [1]", "section 'data' must be a mapping"),
        ("data: {profile: x}", "'profile' is set by the run"),
        ("needs_data: 1", "needs_data is 1"),
        ("? [data]\n: 64\n? [data]\n: 96", "key ['data'] stands twice"),
        ("data: 2026-13-01", "cannot be read as YAML"),
        ("data: " + "[" * 5000, "cannot be read as YAML"),
        ("data: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("matrix: {architectures: [a], arms: [], tasks: [], encoder: b}", "'encoder' is 'b'"),
        ("matrix: {architectures: [a, a], arms: [], tasks: [], encoder: a}", "twice"),
        ("matrix: {architectures: a, arms: [], tasks: [], encoder: a}", "valid list"),
        ("matrix: {architecture: [a], encoder: a}", "did you mean 'architectures'?"),
        ("matrix: {architectures: [../../etc], encoder: ../../etc}", "should match pattern"),
        ("matrix:", "'encoder' is ''"),
    ],
)
def test_bad_profile_files(toy: Path, text: str, message: str) -> None:
    profile(toy, f"{'' if text.startswith('matrix') else MATRIX}{text}\n")
    error = error_of(stages.plan, "toy")
    assert message in error
    assert "toy.yaml" in error


def test_the_stages_of_the_real_profiles() -> None:
    found = sorted((paths.NOTEBOOKS / "params").glob("*.yaml"))
    assert {f.stem for f in found} >= {"smoke", "laptop", "open", "paper"}
    for file in found:
        needs = "needs_data: true" in file.read_text()
        plan = stages.plan(file.stem, paths.ROOT if needs else None)
        encoder = stages.matrix(file.stem).encoder
        assert {i.parameters.get("encoder", encoder) for i in plan} == {encoder}
        compared = [(i.inputs, i.parameters["arms"]) for i in plan if i.stage.family == "finetune"]
        for made in (i for i in plan if i.stage.family == "pretrain"):
            assert any(made.name in x and made.parameters["arm"] in arms for x, arms in compared)
        assert {n for i in plan for n in i.inputs} <= {i.name for i in plan}


# Begin and finish.

VALUES: dict[str, Any] = {"profile": "toy", "size": 3, "network": "pspnet", "unrelated": object()}
CLASSIFIER = VALUES | {"architecture": "a"}


def make(stage: str, **values: Any) -> RunningStage:
    running = begin(stage, VALUES | values)
    (running.path / "result.txt").write_text(stage)
    running.finish(seeds=[0])
    return running


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_manifest_tells_what_was_made_from_what(toy: Path) -> None:
    data = make("data")
    running = begin("classifiers", CLASSIFIER)
    assert running.path == toy / "runs/toy/classifiers/a"
    assert running.params == {"profile": "toy", "size": 3, "architecture": "a"}
    assert running.input("data") == data.path
    table = paths.figures() / "toy" / "table1.csv"
    for file in (running.path / "deep/weights", running.path / "checkpoints/last", table):
        file.parent.mkdir(parents=True)
        file.write_bytes(b"abc")
    running.finish(seeds=[1, 2], notes={"best": 0.5}, outputs=[table])
    manifest = json.loads((running.path / "manifest.json").read_text())
    known = {
        "instance": "classifiers/a", "parameters": running.params, "seeds": [1, 2],
        "inputs": {"data": digest((data.path / "manifest.json").read_bytes())},
        "outputs": {"deep/weights": {"bytes": 3, "sha256": digest(b"abc")}},
        "precision": "float32", "notes": {"best": 0.5},
    }  # fmt: skip
    assert {name: manifest[name] for name in known} == known
    assert list(manifest["report"]) == ["toy/table1.csv"]
    assert manifest["device"].startswith(("cpu", "cuda"))
    assert manifest["seconds"] >= 0
    assert manifest["versions"]["numpy"]
    source = (paths.PACKAGE / "workflow" / "stage.py").read_bytes()
    assert manifest["code"]["files"]["dollkit/workflow/stage.py"] == digest(source)
    assert not list(running.path.glob("*.tmp"))


def test_what_a_checkpoint_must_match(toy: Path) -> None:
    make("data")

    def key() -> str:
        return begin("classifiers", CLASSIFIER).key()

    first, notebook = key(), begin("classifiers", CLASSIFIER).notebook
    cells = json.loads(notebook.read_text())
    assert key() == first
    for cell in cells["cells"]:  # what was printed, and the defaults of parameters
        if cell["cell_type"] == "code":
            cell["execution_count"] = 7
            if "parameters" in cell["metadata"].get("tags", ()):
                cell["source"] = [*cell["source"], "\n", "# a remark"]
    notebook.write_text(json.dumps(cells))
    assert key() == first
    cells["cells"].append({"cell_type": "code", "source": ["steps = 3"], "metadata": {}})
    notebook.write_text(json.dumps(cells))
    assert first != key() != begin("classifiers", CLASSIFIER | {"size": 4}).key()


def test_a_folder_without_manifest_is_not_there(toy: Path) -> None:
    message = r"stage labels needs data .*make reproduce PROFILE=toy. or 01_data\.ipynb"
    assert re.search(message, error_of(begin, "labels", VALUES))
    assert re.search(message, error_of(run, "labels", "toy", None))
    assert not (toy / "runs/toy/notebooks").exists(), "no kernel is started"


def test_an_incomplete_input_is_named(toy: Path) -> None:
    file = make("data").path / "result.txt"
    file.write_text("dat")
    with pytest.raises(InputError, match=r"needs data, but .*result\.txt has 3 bytes, not 4"):
        begin("classifiers", CLASSIFIER)
    file.unlink()
    with pytest.raises(InputError, match=r"needs data, but .*result\.txt is gone"):
        begin("classifiers", CLASSIFIER)


def test_inputs_are_those_of_the_matrix(toy: Path) -> None:
    make("data")
    for name in "ab":
        make("classifiers", architecture=name)
    labels = begin("labels", VALUES)
    assert list(labels.inputs("classifiers")) == ["a", "b"]
    labels.finish()
    pretrain = begin("pretraining", VALUES | {"arm": "doll"})
    assert pretrain.path.name == "pspnet-doll"
    assert list(pretrain.inputs("classifiers")) == ["a", "b"], "arm gradcam explains anew"
    assert "reads no 'tables'" in error_of(pretrain.inputs, "tables")
    pretrain.finish()
    assert read_manifest(pretrain.path)
    begin("pretraining", VALUES | {"arm": "doll"})
    assert read_manifest(pretrain.path) is None, "what is begun again is not there"
    pretrain.finish()
    finetune = begin("finetuning", VALUES | {"task": "lungs"})
    assert list(finetune.inputs("classifiers")) == ["a"], "only the encoder's classifier"
    assert list(finetune.inputs("pretrain")) == ["doll"], "both say which network"
    assert "does not read 'classifiers/b'" in error_of(finetune.input, "classifiers/b")


def test_tables_that_a_run_no_longer_makes_are_deleted(toy: Path) -> None:
    folder = paths.figures() / "toy"
    folder.mkdir(parents=True)
    files = [folder / name for name in ("a.csv", "b.csv", "own.csv")]
    first, second = files[:2]
    for file in files:
        file.write_text("1")
    begin("data", VALUES).finish(outputs=[first, second])
    (paths.runs() / "toy/data/manifest.json").unlink()  # as Snakemake does
    begin("data", VALUES)  # killed: nothing is lost, and nothing is forgotten
    assert second.is_file()
    target = begin("data", VALUES).finish(outputs=[first])
    assert [file.is_file() for file in files] == [True, False, True]
    manifest = json.loads(target.read_text())
    assert (list(manifest["report"]), manifest["outputs"]) == (["toy/a.csv"], {})


def test_unknown_stage_and_unset_or_ill_typed_parameters(toy: Path) -> None:
    for stage, values, message in (
        ("date", VALUES, "unknown stage 'date'; did you mean 'data'"),
        ("data", {"profile": "toy"}, "'size' is not set"),
        ("data", VALUES | {"size": "x"}, "parameter 'size' is 'x'"),
        ("data", VALUES | {"profile": "nope"}, "unknown profile 'nope'"),
    ):
        assert message in error_of(begin, stage, values)
