"""Who is filmed for each layout, under which name, and which parameters a layout takes."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dollkit.errors import InputError
from dollkit.findings import PATHOLOGIES
from dollkit.phantom.population import sample_population
from dollkit.phantom.render import check_size

LAYOUTS: tuple[str, ...] = ("jsrt", "montgomery", "shenzhen", "covid-qu-ex")
"""Layouts of `write_layout`."""

JSRT_NAMES: tuple[str, ...] = (
    *(f"JPCLN{i:03d}" for i in range(1, 155)),
    *(f"JPCNN{i:03d}" for i in range(1, 94)),
)
"""Films of JSRT: 154 with a nodule, then 93 without."""

COVID_CLASSES: dict[str, str] = {
    "COVID-19": "covid",
    "Non-COVID": "non_covid",
    "Normal": "normal",
}
"""Class folder -> how its file names start."""

_CLASS_CYCLE = ("COVID-19", "Non-COVID", "COVID-19", "Normal")
_SPLIT_CYCLE = ("Train", "Val", "Test", "Train", "Train")
_DEVICES = "Support Devices"


def _jsrt_rows(seed: int, names: Sequence[str]) -> pd.DataFrame:
    numbers = [int(name[5:]) for name in names]
    sick = [name.startswith("JPCLN") for name in names]
    count = 64
    while True:  # a larger population begins with the smaller one
        rows = sample_population(count, seed, "organs")
        having = rows.index[rows["Lung Lesion"] == 1]
        free = rows.index[rows["Lung Lesion"] == 0]
        if len(having) >= max(numbers) and len(free) >= max(numbers):
            break
        count *= 2
    taken = [(having if s else free)[i - 1] for s, i in zip(sick, numbers, strict=True)]
    return _named(rows.loc[taken], names, numbers)


def _tuberculosis_rows(n: int, seed: int, prefix: str, every_other: int) -> pd.DataFrame:
    # The two layouts share a cohort, not its patients.
    rows = sample_population(2 * n, seed, "lungs").iloc[every_other::2]
    rows = rows.sort_values("No Finding", ascending=False, kind="stable")
    sick = (1 - rows["No Finding"]).tolist()
    return _named(rows, [f"{prefix}_{i:04d}_{s}" for i, s in enumerate(sick, 1)], range(1, n + 1))


def _covid_rows(n: int, seed: int) -> pd.DataFrame:
    count = 2 * n
    while True:
        rows = sample_population(count, seed, "covid").drop_duplicates("patient_id").head(n)
        if len(rows) == n:
            break
        count *= 2
    kind = pd.Series([_CLASS_CYCLE[i % 4] for i in range(n)], index=rows.index)
    rows.loc[kind != "COVID-19", "infection"] = 0
    rows.loc[kind == "Normal", [f for f in PATHOLOGIES if f != _DEVICES]] = 0
    rows.loc[kind == "Normal", "No Finding"] = 1
    number = kind.groupby(kind).cumcount() + 1
    rows["folder"] = [f"{_SPLIT_CYCLE[(i - 1) % 5]}/{k}" for i, k in zip(number, kind, strict=True)]
    names = [f"{COVID_CLASSES[k]}_{i}" for i, k in zip(number, kind, strict=True)]
    return _named(rows, names, number.tolist())


def _named(rows: pd.DataFrame, names: Sequence[str], numbers: Sequence[int]) -> pd.DataFrame:
    given = rows.reset_index(drop=True)
    if "folder" not in given:
        given["folder"] = ""
    return given.assign(name=list(names), number=list(numbers))


_SIZES: dict[str, tuple[int, ...]] = {
    "jsrt": (64, 128, 256, 512, 1024),
    "covid-qu-ex": (64, 128, 256),
}


def check_layout(
    layout: str,
    n: int | None,
    size: int,
    seed: int,
    names: Sequence[str] | None = None,
    doubled: bool | None = None,
) -> int:
    """Number of films that `write_layout` would write; `InputError` if it would refuse."""
    n = _count(layout, n, seed, names)
    if doubled is not None and layout != "covid-qu-ex":
        raise InputError(f"parameter 'doubled' is of layout covid-qu-ex: omit it for {layout}")
    check_size(size)
    sizes = _SIZES.get(layout, (size,))
    if size not in sizes:
        raise InputError(
            f"parameter 'size' is {size}: for layout {layout} use one of "
            f"{', '.join(map(str, sizes))}"
        )
    return n


def _count(layout: str, n: int | None, seed: int, names: Sequence[str] | None) -> int:
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}: use one of {', '.join(LAYOUTS)}")
    if seed < 0:
        raise InputError(f"parameter 'seed' is {seed}: use 0 or more")
    if names is not None:
        if layout != "jsrt":
            raise InputError(f"parameter 'names' is of layout jsrt: omit it for {layout}")
        for name in names:
            if name not in JSRT_NAMES:
                raise InputError(
                    f"parameter 'names': {name!r} is no film of JSRT: use JPCLN001 to JPCLN154 or "
                    "JPCNN001 to JPCNN093"
                )
            if list(names).count(name) > 1:
                raise InputError(f"parameter 'names': {name!r} stands twice: name each film once")
        if n not in (None, len(names)):
            raise InputError(f"parameter 'n' is {n}, 'names' has {len(names)} films: omit 'n'")
        n = len(names)
    most = len(JSRT_NAMES) if layout == "jsrt" else 9999
    if n is None or not 1 <= n <= most:
        raise InputError(f"parameter 'n' is {n}: for layout {layout} use 1 to {most} films")
    return n


def truth(
    layout: str, n: int | None, seed: int, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """Population rows behind a layout, in the order written.

    ``render(truth(layout, n, seed), size, seed)`` gives the films and masks that `write_layout`
    puts into the files.

    Returns:
        the columns of `sample_population`, and name (of the film in the layout), number (in its
        series, from 1), folder ("Train/COVID-19" for example; "" but for COVID-QU-Ex).
    """
    n = _count(layout, n, seed, names)
    if layout == "jsrt":
        return _jsrt_rows(seed, JSRT_NAMES[:n] if names is None else names)
    if layout == "montgomery":
        return _tuberculosis_rows(n, seed, "MCUCXR", 0)
    if layout == "shenzhen":
        return _tuberculosis_rows(n, seed, "CHNCXR", 1)
    return _covid_rows(n, seed)
