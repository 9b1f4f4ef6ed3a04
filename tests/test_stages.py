"""Which instances a profile has, what each is made from, and which profile files are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from dollkit.common import paths
from dollkit.common.errors import InputError
from dollkit.workflow import stages
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
    text = (toy / "notebooks/params/toy.yaml").read_text()
    several = text.replace("[pspnet]", "[pspnet, unet]").replace("[doll]", "[doll, truth]")
    sections = "pretraining: {size: 5}\npretrain/truth: {size: 6}\npretrain/unet-truth: {size: 7}\n"
    profile(toy, several + sections)
    plan = {i.name: i for i in stages.plan("toy")}
    made = {n: p.parameters["size"] for n, p in plan.items() if n.startswith("pretrain/")}
    # The section of one instance wins over that of an item, and that over its stage's.
    assert made == {
        "pretrain/pspnet-doll": 5,
        "pretrain/pspnet-truth": 6,
        "pretrain/unet-doll": 5,
        "pretrain/unet-truth": 7,
    }
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
def test_a_file_that_a_parameter_names_is_an_input(
    toy: Path, book: str, more: str, instance: str, line: str
) -> None:
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
    with pytest.raises(InputError, match="give it as DATA=dir"):
        stages.plan("toy")
    with pytest.raises(InputError, match="no notebook declares 'data_dir'"):
        stages.plan("toy", toy)
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
        ("data:\n\tn_films: 3", "cannot be read as YAML"),
        ("? [data]\n: 64\n? [data]\n: 96", "key ['data'] stands twice"),
        ("data: 2026-13-01", "cannot be read as YAML"),
        ("data: " + "[" * 5000, "cannot be read as YAML"),
        ("data: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
    ],
)
def test_bad_profile_files(toy: Path, text: str, message: str) -> None:
    profile(toy, f"{MATRIX}{text}\n")
    with pytest.raises(InputError) as error:
        stages.plan("toy")
    assert message in str(error.value)
    assert "toy.yaml" in str(error.value)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ("{architectures: [a], arms: [], tasks: [], encoder: b}", "'encoder' is 'b'"),
        ("{architectures: [a, a], arms: [], tasks: [], encoder: a}", "twice"),
        ("{architectures: a, arms: [], tasks: [], encoder: a}", "valid list"),
        ("{architecture: [a], encoder: a}", "did you mean 'architectures'?"),
        ("{architectures: [../../etc], encoder: ../../etc}", "should match pattern"),
        ("all", "section 'matrix' must be a mapping"),
        ("\n- data\n- labels", "section 'matrix' must be a mapping"),
        ("", "'encoder' is ''"),
    ],
)
def test_bad_matrix(toy: Path, matrix: str, message: str) -> None:
    profile(toy, f"matrix: {matrix}\n")
    with pytest.raises(InputError) as error:
        stages.plan("toy")
    assert message in str(error.value)


def test_the_stages_of_the_real_profiles() -> None:
    found = sorted((paths.NOTEBOOKS / "params").glob("*.yaml"))
    assert {f.stem for f in found} >= {"smoke", "laptop", "open", "paper"}
    for file in found:
        needs = "needs_data: true" in file.read_text()
        plan = stages.plan(file.stem, paths.ROOT if needs else None)
        assert plan[0].name == "data"
        encoder = stages.matrix(file.stem).encoder
        assert {i.parameters.get("encoder", encoder) for i in plan} == {encoder}
