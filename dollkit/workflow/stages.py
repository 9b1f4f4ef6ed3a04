"""The stages, their instances in a profile, and what each instance depends on.

Snakemake decides from this what to run; nothing here runs anything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from dollkit.common import paths
from dollkit.common.errors import InputError, nearest
from dollkit.common.machine import Json
from dollkit.workflow import parameters as params
from dollkit.workflow.sources import source_files


@dataclass(frozen=True)
class Stage:
    """One notebook. `over` = pairs (list in ``matrix``, parameter): one instance per combination.

    An input is another stage's family or ``classifiers:encoder``, the one classifier whose
    backbone the segmentation networks use. Of a family it is all instances, but of a list that
    both stages vary over only those of the same item (fine-tuning a PSPNet reads the pre-trained
    PSPNets). `files` are globs, relative to the repository, of data files that the notebook reads.
    Of a `shared` one several processes can do parts (`parts`).
    """

    family: str
    section: str
    notebook: str
    inputs: tuple[str, ...] = ()
    over: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()
    shared: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """What tells its instances apart."""
        return tuple(parameter for _, parameter in self.over)


REFERENCE = ("data/reference/*.csv",)
ENCODER = "classifiers:encoder"
NETWORKS = ("networks", "network")

STAGES: dict[str, Stage] = {
    stage.family: stage
    for stage in (
        Stage("data", "data", "01_data.ipynb"),
        Stage(
            "classifiers",
            "classifiers",
            "02_classifiers.ipynb",
            ("data",),
            over=(("architectures", "architecture"),),
        ),
        Stage("labels", "labels", "03_labels.ipynb", ("data", "classifiers"), shared=True),
        Stage(
            "pretrain",
            "pretraining",
            "04_pretraining.ipynb",
            ("data", "labels", "classifiers"),  # all of them: arm gradcam explains anew
            over=(NETWORKS, ("arms", "arm")),
        ),
        Stage(
            "finetune",
            "finetuning",
            "05_finetuning.ipynb",
            ("data", "pretrain", ENCODER),
            over=(NETWORKS, ("tasks", "task")),
            shared=True,
        ),
        Stage(
            "tables",
            "tables",
            "06_tables.ipynb",
            ("classifiers", "labels", "pretrain", "finetune"),
            files=REFERENCE,
        ),
        Stage(
            "figures",
            "figures",
            "07_figures.ipynb",
            ("data", "labels", "classifiers", "pretrain", "finetune", "tables"),
            files=REFERENCE,
        ),
        Stage(
            "claims",
            "claims",
            "08_claims.ipynb",
            ("labels", "finetune", "tables", "figures"),
            files=REFERENCE,
        ),
        Stage("cost", "cost", "09_cost.ipynb", ("data", "classifiers")),
    )
}


@dataclass(frozen=True)
class Matrix:
    """Which instances a profile has."""

    items: Mapping[str, tuple[str, ...]]
    encoder: str

    def instances(self, family: str, same: Mapping[str, str] | None = None) -> tuple[str, ...]:
        """Instance names of one input entry of a stage, in the profile's order.

        Args:
            same: parameter to the item that it must have; those the family lacks say nothing.
        """
        if family == ENCODER:
            return (f"classifiers/{self.encoder}",)
        stage, wanted = STAGES[family], same or {}
        return tuple(
            name_of(stage, items)
            for items in self._combinations(stage)
            if all(wanted.get(p, item) == item for p, item in items.items())
        )

    def chosen(self, name: str) -> dict[str, str]:
        """Parameter to item of an instance: what its name stands for; {} if it is not planned."""
        stage = family_of(name)
        return next((i for i in self._combinations(stage) if name_of(stage, i) == name), {})

    def _combinations(self, stage: Stage) -> list[dict[str, str]]:
        lists = [self.items[listed] for listed, _ in stage.over]
        return [dict(zip(stage.parameters, items, strict=True)) for items in product(*lists)]


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
    return "/".join(filter(None, (stage.family, "-".join(items[p] for p in stage.parameters))))


def matrix(profile: str) -> Matrix:
    """The ``matrix:`` section of a profile, checked."""
    path = params.profile_file(profile)
    section = _mapping(params.read_profile(profile).get("matrix"), f"{path}: section 'matrix'")
    lists = list(dict.fromkeys(listed for stage in STAGES.values() for listed, _ in stage.over))
    for key in section:
        if key not in (*lists, "encoder"):
            raise InputError(f"{path}: matrix: unknown key '{key}'; {nearest(key, lists)}")
    items: dict[str, tuple[str, ...]] = {}
    for key in lists:
        given = section.get(key, [])
        names: list[Any] = given if isinstance(given, list) else [None]
        if not all(isinstance(n, str) and re.fullmatch(r"[\w.+-]+", n) for n in names):
            raise InputError(f"{path}: matrix: '{key}' must be a list of names, not {given!r}")
        if len(set(names)) < len(names):
            raise InputError(f"{path}: matrix: '{key}' names one item twice; drop one")
        items[key] = tuple(names)
    encoder = section.get("encoder")
    if encoder not in items["architectures"]:
        raise InputError(
            f"{path}: matrix: 'encoder' is {encoder!r}; "
            f"it must be one of architectures: {', '.join(items['architectures'])}"
        )
    return Matrix(items, encoder)


def inputs_of(name: str, of: Matrix) -> tuple[str, ...]:
    """Instances that an instance reads, in the order of the stage's declaration."""
    same = of.chosen(name)
    return tuple(i for family in family_of(name).inputs for i in of.instances(family, same))


def files_of(stage: Stage) -> tuple[Path, ...]:
    """Our modules and data files that a stage's results depend on, its notebook excluded."""
    data = (f for glob in stage.files for f in sorted(paths.ROOT.glob(glob)))
    return (*source_files(params.notebooks() / stage.notebook), *data)


def plan(profile: str, data: Path | None = None) -> list[Instance]:
    """All instances of a profile, each after its inputs.

    Args:
        profile: name of a file in ``notebooks/params/``.
        data: folder with the data sets, for profiles whose file says ``needs_data: true``.
    """
    path, content = params.profile_file(profile), params.read_profile(profile)
    extra = _data_parameter(path, content, data)
    of = matrix(profile)
    names = [name for family in STAGES for name in of.instances(family)]
    _check_sections(path, content, of, names)
    common = _mapping(content.get("common"), f"{path}: section 'common'")
    seen: set[str] = set()
    planned = []
    for name in names:
        stage = family_of(name)
        notebook = params.notebooks() / stage.notebook
        known = params.declared(notebook)
        seen |= known.keys()
        if "profile" not in known:
            raise InputError(f"{notebook}: must declare the parameter 'profile: str'")
        items = of.chosen(name)
        own: dict[str, Any] = {"profile": profile, **items}
        if "encoder" in known:  # one place says whose backbone the networks use
            own["encoder"] = of.encoder
        layers: list[tuple[str, Mapping[str, Any], bool]] = [(f"{path}: common", common, False)]
        for section in dict.fromkeys((stage.section, *_parts(stage, items), name)):
            given = _mapping(content.get(section), f"{path}: section '{section}'")
            for fixed in own.keys() & given.keys():
                raise InputError(f"{path}: {section}: '{fixed}' is set by the run; drop it here")
            layers.append((f"{path}: {section}", given, True))
        layers += [("DATA", extra, False), (f"{path}: matrix", own, True)]
        values = params.resolve(notebook, layers)
        files = (*files_of(stage), *_named(values))
        planned.append(Instance(name, stage, notebook, values, inputs_of(name, of), files))
    for key in common.keys() - seen:
        raise InputError(f"{path}: common: no notebook declares '{key}'; {nearest(key, seen)}")
    if extra and not extra.keys() <= seen:
        raise InputError(f"{path}: needs_data, but no notebook declares 'data_dir'")
    return planned


def _named(values: Mapping[str, Json]) -> tuple[Path, ...]:
    """Files of the user's that a stage reads: one put in another's place makes it run again."""
    named = [values.get("imagenet_weights"), values.get("threshold")]
    files = [paths.ROOT / text for text in named if isinstance(text, str) and text]
    return tuple(file for file in files if file.is_file())


def _data_parameter(path: Path, content: Mapping[str, Any], data: Path | None) -> dict[str, str]:
    needs = content.get("needs_data", False)
    if not isinstance(needs, bool):
        raise InputError(f"{path}: needs_data is {needs!r}: it must be true or false")
    if needs and data is None:
        raise InputError(
            f"profile {path.stem} reads films from a folder: give it as DATA=dir "
            f"(data/README.md says how to get them)"
        )
    if data is None:
        return {}
    if not needs:
        raise InputError(f"profile {path.stem} makes its own films: leave DATA out")
    if not data.is_dir():
        raise InputError(f"DATA={data}: no such folder; data/README.md shows the expected tree")
    return {"data_dir": str(data.resolve())}


def _parts(stage: Stage, items: Mapping[str, str]) -> list[str]:
    """Sections for one item of several instances: ``finetune/lungs`` is for every network."""
    return [f"{stage.family}/{item}" for item in items.values()]


def _check_sections(path: Path, content: Mapping[str, Any], of: Matrix, names: list[str]) -> None:
    known = ["common", "matrix", "needs_data", *(s.section for s in STAGES.values()), *names]
    known += [part for n in names for part in _parts(family_of(n), of.chosen(n))]
    for section in content:
        if section not in known:
            raise InputError(f"{path}: unknown section '{section}'; {nearest(section, known)}")


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
        raise InputError(f"{where} must be a mapping of names to values, not {value!r}")
    return value
