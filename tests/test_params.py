"""A mistyped or ill-typed parameter is one clear line before any cell runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dollkit.common.errors import InputError
from dollkit.workflow import parameters, stages
from dollkit.workflow.parameters import Kind, declared, mismatch, resolve
from tests.toys import write_notebook

CELL = """\
# a heading
profile: str = "smoke"  # parameter file
epochs = 3  # passes, over "a = b" films
rate: float = 1  # per step # twice
names: list[str] = ["a # b", "c"]  # which
sizes = [8, 16.5]  # px
limit: int | None = None  # films, none: all
split: dict[str, float] = {"train": 0.5}  # share
on = True  # whether
"""


@pytest.fixture
def notebook(tmp_path: Path) -> Path:
    return write_notebook(tmp_path / "01_data.ipynb", "print(1)", parameters=CELL)


def test_names_types_defaults_and_comments(notebook: Path) -> None:
    found = declared(notebook)
    assert {name: str(p.kind) for name, p in found.items()} == {
        "profile": "str",
        "epochs": "int",
        "rate": "float",
        "names": "list[str]",
        "sizes": "list[float]",
        "limit": "int | None",
        "split": "dict[str, float]",
        "on": "bool",
    }
    assert found["names"].default == ["a # b", "c"]
    assert found["rate"].default == 1.0
    assert isinstance(found["rate"].default, float)
    assert found["epochs"].comment == 'passes, over "a = b" films'
    assert found["names"].comment == "which"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x = (1, 2)", "unclear"),
        ("x = []", "unclear"),
        ("x = 1 + n", "plain JSON value"),
        ("x: int = 1.5", "must be int"),
        ("x: set[int] = 1", "unclear"),
        ("import os", "only lines like"),
        ("x, y = 1, 2", "only lines like"),
        ("epochs = 4", "declared twice"),
        ("x = [1, 'a']", "unclear"),
        ("x = = 1", "line 10"),
    ],
)
def test_bad_parameters_cells(tmp_path: Path, line: str, message: str) -> None:
    path = write_notebook(tmp_path / "n.ipynb", parameters=f"{CELL}{line}\n")
    with pytest.raises(InputError, match=message):
        declared(path)


def test_a_notebook_needs_exactly_one_parameters_cell(tmp_path: Path) -> None:
    path = write_notebook(tmp_path / "n.ipynb", "x = 1")
    path.write_text(path.read_text().replace('"parameters"', '"other"'))
    with pytest.raises(InputError, match="has 0 code cells tagged 'parameters'"):
        declared(path)


@pytest.mark.parametrize(
    ("value", "kind", "fine"),
    [
        (1, "int", True),
        (True, "int", False),
        (1.0, "int", False),
        (1, "float", True),
        (True, "float", False),
        (float("nan"), "float", False),
        (0, "bool", False),
        ("1", "int", False),
        (None, "str", False),
    ],
)
def test_scalar_types(value: object, kind: str, fine: bool) -> None:
    assert (mismatch(value, Kind(kind)) == "") is fine


def test_elements_are_checked_and_named() -> None:
    assert mismatch([1, "2"], Kind("list", Kind("int"))) == "[1] is '2' (str): it must be int"
    assert mismatch({"a": 1, "b": None}, Kind("dict", Kind("float"))).startswith("['b'] is None")
    assert mismatch("abc", Kind("list", Kind("str"))).startswith("is 'abc' (str)")


def test_a_number_that_yaml_reads_as_text_is_explained() -> None:
    assert "write 1.0e-3" in mismatch("1e-3", Kind("float"))


def test_later_layers_win_and_ints_become_floats(notebook: Path) -> None:
    layers = [
        ("common", {"epochs": 5, "rate": 2, "elsewhere": 1}, False),
        ("data", {"epochs": 7, "limit": 9}, True),
    ]
    values = resolve(notebook, layers)
    assert (values["epochs"], values["rate"], values["limit"]) == (7, 2.0, 9)
    assert isinstance(values["rate"], float)
    assert values["names"] == ["a # b", "c"]


def test_unknown_parameter_names_file_parameter_and_nearest(notebook: Path) -> None:
    with pytest.raises(InputError, match=r"here\.yaml: data: unknown parameter 'epoch'") as error:
        resolve(notebook, [("here.yaml: data", {"epoch": 5}, True)])
    assert "did you mean 'epochs'?" in str(error.value)
    assert "\n" not in str(error.value)


def test_wrong_type_names_file_parameter_and_type(notebook: Path) -> None:
    with pytest.raises(InputError, match=r"here: parameter 'epochs' is True \(bool\): .* int"):
        resolve(notebook, [("here", {"epochs": True}, True)])


def profile(toy: Path, text: str) -> None:
    (toy / "notebooks/params/toy.yaml").write_text(text)


MATRIX = (
    "matrix: {architectures: [a], networks: [pspnet], arms: [doll], tasks: [lungs], encoder: a}\n"
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("common: {sise: 4}", "no notebook declares 'sise'; did you mean 'size'?"),
        ("data: {sise: 4}", "data: unknown parameter 'sise' for 01_data.ipynb; did you mean"),
        ("data: {size: big}", "data: parameter 'size' is 'big'"),
        ("dota: {size: 4}", "unknown section 'dota'; did you mean 'data'?"),
        ("data: [1]", "section 'data' must be a mapping"),
        ("data: {size: 4, size: 5}", "'size' stands twice"),
        ("data: {profile: x}", "'profile' is set by the run"),
        ("pretrain/shuffled: {size: 4}", "unknown section 'pretrain/shuffled'"),
        ("data: {size: [}", "cannot be read as YAML"),
        ("needs_data: 1", "needs_data is 1"),
    ],
)
def test_bad_profile_files(toy: Path, text: str, message: str) -> None:
    profile(toy, f"{MATRIX}{text}\n")
    with pytest.raises(InputError) as error:
        stages.plan("toy")
    assert message in str(error.value)
    assert "toy.yaml" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ("{architectures: [a], arms: [], tasks: [], encoder: b}", "'encoder' is 'b'"),
        ("{architectures: [a, a], arms: [], tasks: [], encoder: a}", "twice"),
        ("{architectures: a, arms: [], tasks: [], encoder: a}", "list of names"),
        ("{architectures: [a/b], arms: [], tasks: [], encoder: a}", "list of names"),
        ("{architecture: [a], encoder: a}", "did you mean 'architectures'?"),
    ],
)
def test_bad_matrix(toy: Path, matrix: str, message: str) -> None:
    profile(toy, f"matrix: {matrix}\n")
    with pytest.raises(InputError) as error:
        stages.plan("toy")
    assert message in str(error.value)


def test_unknown_profile_lists_the_known_ones(toy: Path) -> None:
    with pytest.raises(InputError, match="unknown profile 'tiny': use one of toy"):
        parameters.read_profile("tiny")


def test_a_section_of_one_instance_wins_over_its_stage(toy: Path) -> None:
    profile(
        toy,
        "matrix: {architectures: [a, b], networks: [pspnet], arms: [], tasks: [], encoder: a}\n"
        "common: {size: 5}\nclassifiers: {size: 6}\nclassifiers/b: {size: 7}\n",
    )
    sizes = {i.name: i.parameters["size"] for i in stages.plan("toy")}
    assert sizes["data"] == 5
    assert sizes["classifiers/a"] == 6
    assert sizes["classifiers/b"] == 7
