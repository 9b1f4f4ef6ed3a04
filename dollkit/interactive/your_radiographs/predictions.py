"""What was drawn, and where: a killed call goes on, and no mask corrected by hand is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from dollkit.common.errors import InputError, brief
from dollkit.common.machine import sha256
from dollkit.data.store_writer import unwritable

log = logging.getLogger(__name__)

JOURNAL = "predictions.part"

Rows = list[dict[str, Any]]
State = list[int]


@dataclass
class Written:
    """A file: of which film, in which format, and sha256 of what was written there.

    More than one sha256 where a process was killed while it wrote: old or new, it is ours.
    """

    film: str
    to: str
    sums: list[str] = field(default_factory=list)


class Journal:
    """Films that are done, one line each, under the key of what made them; and all files written.

    Nothing is written before `save`.

    Attributes:
        rows: of the films that are done under the key.
        failed: films that could not be read, with the reason.
        files: by path below the folder, under any key.
    """

    def __init__(self, out: Path, key: str) -> None:
        self.out = out
        self.path = out / JOURNAL
        self.key = key
        self.rows: dict[str, Rows] = {}
        self.failed: dict[str, str] = {}
        self.files: dict[str, Written] = {}
        self._state: dict[str, State] = {}
        # A line that somebody else wrote ends it, as one cut off does.
        with contextlib.suppress(KeyError, TypeError, AttributeError):
            self._read()

    def _read(self) -> None:
        known = False
        for line in _lines(self.path):
            if "key" in line:
                known = line["key"] == self.key
            elif "file" in line:
                # What stands here may be removed later: nothing outside, whoever wrote it.
                if PurePosixPath(line["file"]).is_absolute() or ".." in line["file"].split("/"):
                    return
                one = self.files.setdefault(line["file"], Written(line["film"], line["to"]))
                one.sums += line["sums"]
            elif known and "failed" in line:
                self.failed[line["failed"]] = line["reason"]
            elif "rows" in line:
                for row in line["rows"]:
                    if row["mask"] in self.files:
                        del self.files[row["mask"]].sums[:-1]
                if known:
                    self.rows[line["film"]] = line["rows"]
                    self._state[line["film"]] = line["state"]

    def stands(self, films: Path, name: str) -> bool:
        """Whether a film has not changed since it was done, and its masks are there."""
        rows = self.rows.get(name)
        try:
            return (
                rows is not None
                and self._state[name] == state_of(films / name)
                and all((self.out / row["mask"]).is_file() for row in rows)
            )
        except InputError:
            return False  # gone since the folder was listed: reading it will say so

    def guard(self, files: Iterable[str]) -> None:
        """Refuse to write over what is not as it was written."""
        found = [file for file in files if self._foreign(file)]
        if found:
            more = f" (and {len(found) - 1} more)" if found[1:] else ""
            raise InputError(
                f"{self.out / found[0]}{more}: not as it was written here (corrected by hand?), "
                "and would be overwritten: move it to your masks, or delete it"
            )

    def stale(
        self, asked: Collection[str], names: Collection[str], there: Collection[str], to: str
    ) -> list[str]:
        """Masks of earlier calls, in the same format, of films or classes that are gone.

        Args:
            asked: files to write, of the films `names`.
            there: all films.
        """
        keep = set(asked) | {r["mask"] for name in there for r in self.rows.get(name, ())}
        old = [file for file, one in self.files.items() if one.to == to and file not in keep]
        films = {self.files[file].film for file in old if (self.out / file).is_file()}
        if others := len((films & set(there)) - set(names)):
            raise InputError(
                f"{self.out}: another network, or other settings, drew the masks of {others} "
                f"{'film that is' if others == 1 else 'films that are'} not asked for: write to "
                "another folder, or draw on all films (without 'only')"
            )
        return old

    def files_of(self, name: str, to: str) -> list[str]:
        """Files of a film in a format."""
        return [file for file, one in self.files.items() if (one.film, one.to) == (name, to)]

    def corrected(self) -> list[str]:
        """Files that are not as they were written."""
        return [file for file in self.files if self._foreign(file)]

    def _foreign(self, file: str) -> bool:
        path, one = self.out / file, self.files.get(file)
        try:
            return path.is_file() and (one is None or sha256(path) not in one.sums)
        except OSError:
            return True

    def save(self) -> None:
        """Write all anew: without it every mask here would be a stranger's, so never by halves."""
        part = self.path.with_name(self.path.name + ".new")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            part.write_text("".join(map(_text, self._all())), encoding="utf-8")
            part.replace(self.path)
        except OSError as error:
            raise unwritable(self.out, error) from None

    def _all(self) -> Iterator[dict[str, Any]]:
        yield {"key": self.key}
        for file, one in self.files.items():
            yield {"file": file, "film": one.film, "to": one.to, "sums": one.sums}
        for film, rows in self.rows.items():
            yield {"film": film, "state": self._state[film], "rows": rows}
        for film, reason in self.failed.items():
            yield {"failed": film, "reason": reason}

    def write(
        self, name: str, state: State, rows: Rows, made: Mapping[str, bytes], to: str
    ) -> None:
        """Write the files of a film and note it as done."""
        sums = {file: [hashlib.sha256(data).hexdigest()] for file, data in made.items()}
        try:
            # First: a file written and not noted would be taken for somebody's own.
            self._add(*({"file": f, "film": name, "to": to, "sums": s} for f, s in sums.items()))
            for file, data in made.items():
                path = self.out / file
                path.parent.mkdir(parents=True, exist_ok=True)
                part = path.with_name(path.name + ".part")
                part.write_bytes(data)
                part.replace(path)
            self._add({"film": name, "state": state, "rows": rows})
        except OSError as error:
            raise unwritable(self.out, error) from None
        self.files |= {file: Written(name, to, one) for file, one in sums.items()}
        self.rows[name], self._state[name] = rows, state

    def fail(self, name: str, reason: str) -> None:
        """Note a film as not readable."""
        self.failed[name] = reason
        self.rows.pop(name, None)
        try:
            self._add({"failed": name, "reason": reason})
        except OSError as error:
            raise unwritable(self.out, error) from None

    def _add(self, *lines: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(map(_text, lines)))

    def remove(self, files: Collection[str]) -> None:
        """Remove files written before, and folders that are then empty.

        What was corrected by hand stays, and is told in the log.
        """
        kept = [file for file in files if self._foreign(file)]
        try:
            for file in set(files) - set(kept):
                path = self.out / file
                path.unlink(missing_ok=True)
                del self.files[file]
                for folder in path.parents:
                    if folder == self.out or not folder.is_dir() or any(folder.iterdir()):
                        break
                    folder.rmdir()
        except OSError as error:
            raise unwritable(self.out, error) from None
        if len(files) > len(kept):
            log.info(
                "%s: removed %d masks of films or classes that are not drawn any more",
                self.out, len(files) - len(kept),
            )  # fmt: skip
        if kept:
            log.warning(
                "%s: kept %d masks of films or classes that are not drawn any more, since they "
                "were corrected by hand; the first is %s", self.out, len(kept), kept[0],
            )  # fmt: skip


def state_of(path: Path) -> State:
    """Size and time of a film's file; `InputError` if it is gone."""
    try:
        found = path.stat()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return [found.st_size, found.st_mtime_ns]


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a journal, up to the first that is none: a killed process cuts its last off."""
    try:
        texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): delete it") from None
    for text in texts:
        try:
            line = json.loads(text)
        except ValueError:
            return
        if not isinstance(line, dict):
            return
        yield line


def _text(line: Mapping[str, Any]) -> str:
    return json.dumps(line) + "\n"


# What lies in a folder of predictions: a row per film and class, and films without.


INDEX = "predictions"
FAILED = f"{INDEX}.failed.csv"
COLUMNS = [
    "file", "class", "mask", "value", "pixels", "area_mm2", "spacing_from", "mean_probability",
    "trained_on",
]  # fmt: skip


def write(journal: Journal, there: Sequence[str], head: Mapping[str, Any]) -> pd.DataFrame:
    """Write ``predictions.csv``, ``.json`` and, if films could not be read, a list of these.

    Args:
        journal: what is drawn in its folder: a call for some films leaves the others in it.
        there: films of the folder, in their order.
        head: of the JSON file.

    Returns:
        The table, `COLUMNS`.
    """
    out = journal.out
    rows = [row for name in there for row in journal.rows.get(name, ())]
    index = pd.DataFrame(rows, columns=COLUMNS)
    failed = [{"file": f, "reason": journal.failed[f]} for f in there if f in journal.failed]
    told = index.astype(object).where(index.notna(), None).to_dict("records")
    text = json.dumps({**head, "failed": failed, "predictions": told}, indent=1, ensure_ascii=False)
    try:
        index.to_csv(out / f"{INDEX}.csv", index=False, lineterminator="\n")
        (out / f"{INDEX}.json").write_text(text + "\n", encoding="utf-8")
        if failed:
            pd.DataFrame(failed).to_csv(out / FAILED, index=False, lineterminator="\n")
        else:
            (out / FAILED).unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(out, error) from None
    return index


# What a network's folder says of what it draws.


def read_note(path: Path) -> tuple[tuple[str, ...], int]:
    """Classes and size as `predict.save_note` wrote them; none and 0 without a note."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return (), 0
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({brief(error)}): delete it") from None
    try:
        note = json.loads(text)
        names, side = note.get("classes", []), note.get("size", 0)
    except (ValueError, AttributeError, RecursionError):
        names, side = None, None
    if not (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        and isinstance(side, int) and not isinstance(side, bool)
    ):  # fmt: skip
        raise InputError(
            f'{path}: not like {{"classes": ["lungs"], "size": 256}}: mend it, or delete it and '
            "give 'classes' and 'size'"
        )
    return tuple(names), side
