"""begin checks inputs and the output folder; finish writes what was made, the manifest last."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.workflow.run import run
from dollkit.workflow.stage import RunningStage, begin, read_manifest

VALUES: dict[str, Any] = {"profile": "toy", "size": 3, "network": "pspnet", "unrelated": object()}


def make(stage: str, **values: Any) -> RunningStage:
    running = begin(stage, VALUES | values)
    (running.path / "result.txt").write_text(stage)
    running.finish(seeds=[0])
    return running


def test_manifest_tells_what_was_made_from_what(toy: Path) -> None:
    data = make("data")
    running = begin("classifiers", VALUES | {"architecture": "a"})
    assert running.path == toy / "runs/toy/classifiers/a"
    assert running.params == {"profile": "toy", "size": 3, "architecture": "a"}
    assert running.input("data") == data.path
    (running.path / "deep").mkdir()
    (running.path / "deep/weights").write_bytes(b"abc")
    (running.path / "checkpoints").mkdir()
    (running.path / "checkpoints/last").write_bytes(b"x")
    table = paths.figures() / "toy" / "table1.csv"
    table.parent.mkdir(parents=True)
    table.write_text("a,b\n")
    running.finish(seeds=[1, 2], notes={"best": 0.5}, outputs=[table])
    manifest = json.loads((running.path / "manifest.json").read_text())
    assert manifest["instance"] == "classifiers/a"
    assert manifest["parameters"] == running.params
    digest = hashlib.sha256((data.path / "manifest.json").read_bytes()).hexdigest()
    assert manifest["inputs"] == {"data": digest}
    assert manifest["outputs"] == {
        "deep/weights": {"bytes": 3, "sha256": hashlib.sha256(b"abc").hexdigest()}
    }
    assert list(manifest["report"]) == ["toy/table1.csv"]
    assert manifest["seeds"] == [1, 2]
    assert manifest["precision"] == "float32"
    assert manifest["notes"] == {"best": 0.5}
    assert manifest["device"] == "cpu" or manifest["device"].startswith("cuda")
    assert manifest["seconds"] >= 0
    assert manifest["versions"]["numpy"]
    code = manifest["code"]["files"]
    own = hashlib.sha256((paths.PACKAGE / "workflow" / "stage.py").read_bytes()).hexdigest()
    assert code["dollkit/workflow/stage.py"] == own
    assert not list(running.path.glob("*.tmp"))


def test_what_a_checkpoint_must_match(toy: Path) -> None:
    make("data")

    def key() -> str:
        return begin("classifiers", VALUES | {"architecture": "a"}).key()

    first = key()
    notebook = begin("classifiers", VALUES | {"architecture": "a"}).notebook
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
    assert key() != first
    assert key() != begin("classifiers", VALUES | {"architecture": "a", "size": 4}).key()


def test_a_folder_without_manifest_is_not_there(toy: Path) -> None:
    message = r"stage labels needs data .*make reproduce PROFILE=toy. or 01_data\.ipynb"
    with pytest.raises(InputError, match=message):
        begin("labels", VALUES)
    with pytest.raises(InputError, match=message):
        run("labels", "toy", None)
    assert not (toy / "runs/toy/notebooks").exists(), "no kernel is started"


def test_beginning_again_removes_the_old_manifest_but_no_other_file(toy: Path) -> None:
    data = make("data")
    begin("data", VALUES)
    assert read_manifest(data.path) is None
    assert (data.path / "result.txt").is_file()


def test_an_incomplete_input_is_named(toy: Path) -> None:
    file = make("data").path / "result.txt"
    file.write_text("dat")
    with pytest.raises(InputError, match=r"needs data, but .*result\.txt has 3 bytes, not 4"):
        begin("classifiers", VALUES | {"architecture": "a"})
    file.unlink()
    with pytest.raises(InputError, match=r"needs data, but .*result\.txt is gone"):
        begin("classifiers", VALUES | {"architecture": "a"})


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
    with pytest.raises(InputError, match="reads no 'tables'"):
        pretrain.inputs("tables")
    pretrain.finish()
    finetune = begin("finetuning", VALUES | {"task": "lungs"})
    assert list(finetune.inputs("classifiers")) == ["a"], "only the encoder's classifier"
    assert list(finetune.inputs("pretrain")) == ["doll"], "both say which network"
    with pytest.raises(InputError, match="does not read 'classifiers/b'"):
        finetune.input("classifiers/b")


def test_tables_that_a_run_no_longer_makes_are_deleted(toy: Path) -> None:
    folder = paths.figures() / "toy"
    folder.mkdir(parents=True)
    first, second, other = (folder / name for name in ("a.csv", "b.csv", "own.csv"))
    for file in (first, second, other):
        file.write_text("1")
    begin("data", VALUES).finish(outputs=[first, second])
    (paths.runs() / "toy/data/manifest.json").unlink()  # as Snakemake does
    begin("data", VALUES)  # killed: nothing is lost, and nothing is forgotten
    assert second.is_file()
    target = begin("data", VALUES).finish(outputs=[first])
    assert first.is_file()
    assert other.is_file()
    assert not second.exists()
    assert list(json.loads(target.read_text())["report"]) == ["toy/a.csv"]
    assert json.loads(target.read_text())["outputs"] == {}


def test_unknown_stage_and_unset_or_ill_typed_parameters(toy: Path) -> None:
    with pytest.raises(InputError, match="unknown stage 'date'; did you mean 'data'"):
        begin("date", VALUES)
    with pytest.raises(InputError, match="'size' is not set"):
        begin("data", {"profile": "toy"})
    with pytest.raises(InputError, match="parameter 'size' is 'x'"):
        begin("data", VALUES | {"size": "x"})
    with pytest.raises(InputError, match="unknown profile 'nope'"):
        begin("data", VALUES | {"profile": "nope"})
