"""The stages, their instances in a profile, and what each instance depends on.

Snakemake decides from this what to run; nothing here runs anything.
"""

from __future__ import annotations

import ast
import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pydantic

from dollkit.common import build_key, paths
from dollkit.common.errors import InputError, nearest
from dollkit.common.machine import Json
from dollkit.workflow import parameters


@dataclass(frozen=True)
class Stage:
    """One notebook. `over` are parameters: one instance per combination of what ``matrix`` lists
    for them (``arms`` for ``arm``).

    An input is all instances of a family, of a parameter that both vary over those of the same item
    (a PSPNet is tuned from PSPNets), or ``classifiers:encoder``, the one classifier whose backbone
    the networks use. `files` are globs, relative to the repository, of data files that the notebook
    reads. The work of a `shared` one can be split over processes (`dollkit.common.machine`).
    """

    family: str
    section: str
    notebook: str
    inputs: tuple[str, ...] = ()
    over: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    shared: bool = False


REFERENCE = ("data/reference/*.csv",)
ENCODER = "classifiers:encoder"

_LIST = (
    Stage("data", "data", "01_data.ipynb"),
    Stage(
        "classifiers", "classifiers", "02_classifiers.ipynb", ("data",), over=("architecture",)
    ),
    Stage("labels", "labels", "03_labels.ipynb", ("data", "classifiers"), shared=True),
    # All classifiers: arm gradcam explains anew.
    Stage(
        "pretrain", "pretraining", "04_pretraining.ipynb", ("data", "labels", "classifiers"),
        over=("network", "arm"),
    ),
    Stage(
        "finetune", "finetuning", "05_finetuning.ipynb", ("data", "pretrain", ENCODER),
        over=("network", "task"), shared=True,
    ),
    Stage(
        "tables", "tables", "06_tables.ipynb", ("classifiers", "labels", "pretrain", "finetune"),
        files=REFERENCE,
    ),
    Stage(
        "figures", "figures", "07_figures.ipynb",
        ("data", "labels", "classifiers", "pretrain", "finetune", "tables"), files=REFERENCE,
    ),
    Stage(
        "claims", "claims", "08_claims.ipynb", ("labels", "finetune", "tables", "figures"),
        files=REFERENCE,
    ),
    Stage("cost", "cost", "09_cost.ipynb", ("data", "classifiers")),
)  # fmt: skip
STAGES = {stage.family: stage for stage in _LIST}


def _once(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("it names one item twice; drop one")
    return names


_Name = Annotated[str, pydantic.Field(pattern=r"^[\w.+-]+$")]  # becomes a folder
_Names = Annotated[list[_Name], pydantic.AfterValidator(_once)]


class Matrix(pydantic.BaseModel):
    """Section ``matrix`` of a profile: what stages vary over, and whose backbone networks use."""

    model_config = parameters.STRICT
    architectures: _Names = []
    networks: _Names = []
    arms: _Names = []
    tasks: _Names = []
    encoder: str = ""

    @cached_property
    def chosen(self) -> dict[str, dict[str, str]]:
        """The instances: what tells each apart, such as ``{"arm": "doll"}``."""
        return {
            name_of(stage, items): items
            for stage in STAGES.values()
            for row in product(*(getattr(self, f"{parameter}s") for parameter in stage.over))
            for items in [dict(zip(stage.over, row, strict=True))]
        }

    def inputs_of(self, name: str) -> tuple[str, ...]:
        """Instances that an instance reads, in the order of the stage's declaration."""
        same = self.chosen.get(name, {})
        inputs: list[str] = []
        for family in family_of(name).inputs:
            if family == ENCODER:
                inputs.append(f"classifiers/{self.encoder}")
                continue
            inputs += [
                other
                for other, items in self.chosen.items()
                if other.split("/")[0] == family
                and all(same.get(parameter, item) == item for parameter, item in items.items())
            ]
        return tuple(inputs)

    def sections_of(self, name: str) -> list[str]:
        """Sections of a profile for an instance, from weakest to strongest."""
        stage = family_of(name)
        # ``finetune/lungs`` is for every network.
        several = [f"{stage.family}/{item}" for item in self.chosen[name].values()]
        return list(dict.fromkeys([stage.section, *several, name]))


@dataclass(frozen=True)
class Instance:
    """One run of one notebook: everything that decides whether it must be run again."""

    name: str
    stage: Stage
    notebook: Path
    parameters: Mapping[str, Json]
    inputs: tuple[str, ...]
    files: tuple[Path, ...]

    @property
    def slug(self) -> str:
        """Name as a file name."""
        return self.name.replace("/", "-")


def family_of(name: str) -> Stage:
    """Stage of a family, section or instance (``pretrain``, ``pretrain/pspnet-doll``)."""
    head = name.split("/")[0]
    for stage in STAGES.values():
        if head in (stage.family, stage.section):
            return stage
    raise InputError(f"unknown stage {name!r}; {nearest(head, STAGES)}")


def name_of(stage: Stage, items: Mapping[str, str]) -> str:
    """``pretrain/pspnet-doll``: the family, and the items that tell its instances apart."""
    return "/".join(filter(None, (stage.family, "-".join(items[p] for p in stage.over))))


def matrix(profile: str) -> Matrix:
    """The ``matrix:`` section of a profile, checked."""
    place = f"{parameters.profile_file(profile)}: matrix"
    section = parameters.read_profile(profile).get("matrix", {})
    checked = Matrix.model_validate(parameters.check(Matrix, section, place))
    if checked.encoder not in checked.architectures:
        known = ", ".join(checked.architectures)
        raise InputError(f"{place}: 'encoder' is {checked.encoder!r}: use an architecture: {known}")
    return checked


def files_of(stage: Stage) -> tuple[Path, ...]:
    """Our modules and data files that a stage's results depend on, its notebook excluded."""
    data = (f for glob in stage.files for f in sorted(paths.ROOT.glob(glob)))
    return (*source_files(parameters.notebooks() / stage.notebook), *data)


def plan(profile: str, data: Path | None = None) -> list[Instance]:
    """All instances of a profile, each after its inputs; `data` is the folder of data sets."""
    path, content = parameters.profile_file(profile), parameters.read_profile(profile)
    extra = _data_parameter(path, content, data)
    instances = matrix(profile)
    known = ["common", "matrix", "needs_data", *(s.section for s in STAGES.values())]
    known += [section for name in instances.chosen for section in instances.sections_of(name)]
    if unknown := [str(section) for section in content if section not in known]:
        raise InputError(f"{path}: unknown section '{unknown[0]}'; {nearest(unknown[0], known)}")
    seen: set[str] = set()
    planned = []
    for name, items in instances.chosen.items():
        stage = family_of(name)
        notebook = parameters.notebooks() / stage.notebook
        model = parameters.declared(notebook)
        values: dict[str, Json] = model().model_dump()
        seen |= values.keys()
        fixed: dict[str, Any] = {"profile": profile, **items}
        if "encoder" in values:  # one place says whose backbone the networks use
            fixed["encoder"] = instances.encoder
        if "data_dir" in values:
            fixed |= extra
        common = {key: value for key, value in content.get("common", {}).items() if key in values}
        values |= parameters.check(model, common, f"{path}: common")
        for section in instances.sections_of(name):
            settings = content.get(section, {})
            for key in fixed.keys() & settings.keys():
                raise InputError(f"{path}: {section}: '{key}' is set by the run; drop it here")
            values |= parameters.check(model, settings, f"{path}: {section}")
        values |= parameters.check(model, fixed, f"{notebook}: parameters cell")
        # Files of the user's: one put in another's place makes the stage run again.
        texts = (values.get("imagenet_weights"), values.get("threshold"))
        named = (paths.ROOT / text for text in texts if isinstance(text, str) and text)
        files = (*files_of(stage), *(file for file in named if file.is_file()))
        planned.append(Instance(name, stage, notebook, values, instances.inputs_of(name), files))
    for key in content.get("common", {}).keys() - seen:
        raise InputError(f"{path}: common: no notebook declares '{key}'; {nearest(key, seen)}")
    if extra and not extra.keys() <= seen:
        raise InputError(f"{path}: needs_data, but no notebook declares 'data_dir'")
    return _without_unused(planned)


def _without_unused(planned: Sequence[Instance]) -> list[Instance]:
    """The plan without pre-trainings of arms that no fine-tuning of their network compares."""
    compared: Any = [(i.inputs, i.parameters["arms"]) for i in planned if "arms" in i.parameters]
    unused = set()
    for made in (i for i in planned if "arm" in i.parameters):
        by = [arms for inputs, arms in compared if made.name in inputs]
        if by and not any(made.parameters["arm"] in arms for arms in by):
            unused.add(made.name)
    kept = [i for i in planned if i.name not in unused]
    return [replace(i, inputs=tuple(n for n in i.inputs if n not in unused)) for i in kept]


def _data_parameter(path: Path, content: Mapping[str, Any], data: Path | None) -> dict[str, str]:
    needs = content.get("needs_data", False)
    if not isinstance(needs, bool):
        raise InputError(f"{path}: needs_data is {needs!r}: it must be true or false")
    if needs and data is None:
        raise InputError(f"{path.stem} reads a folder: give it as DATA=dir (see data/README.md)")
    if data is None:
        return {}
    if not needs:
        raise InputError(f"profile {path.stem} makes its own films: leave DATA out")
    if not data.is_dir():
        raise InputError(f"DATA={data}: no such folder; data/README.md shows the expected tree")
    return {"data_dir": str(data.resolve())}


def source_files(notebook: Path) -> tuple[Path, ...]:
    """Python files of ours that a notebook imports, directly or through others."""
    roots = tuple(dict.fromkeys((parameters.notebooks().parent, paths.ROOT)))
    imports: list[build_key.Import] = []
    for source, _ in parameters.code_cells(notebook):
        plain = re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", source)
        try:
            imports += build_key.imports_of(ast.parse(plain), "", roots)
        except SyntaxError as error:
            raise InputError(f"{notebook}: a code cell does not parse: {error}") from None
    return tuple(sorted(build_key.follow(imports, roots)))


def tree_state(folder: Path) -> str:
    """Fingerprint of a folder of data: name, size and time of change of each file not hidden."""
    state = hashlib.sha256()
    for top, below, names in os.walk(folder):
        below[:] = sorted(d for d in below if not d.startswith("."))
        inner = os.path.relpath(top, folder)
        for name in sorted(n for n in names if not n.startswith(".")):
            try:
                file = os.stat(os.path.join(top, name))  # noqa: PTH116, PTH118
            except OSError:  # a dangling link: the readers name it
                continue
            state.update(f"{inner}/{name}\0{file.st_size}\0{file.st_mtime_ns}\n".encode())
    return state.hexdigest()[:16]
