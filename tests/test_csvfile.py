"""Tables of data sets as text: what is read, what is refused, and how wrong rows are told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dollkit.common.errors import InputError
from dollkit.data.csvfile import BadRows, is_inside, read_csv
from tests.small_files import error_of


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_every_cell_is_text_and_rows_count_as_a_spreadsheet_does(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", 'id,n\nx,007\n\n"y,\nz",NA\n'), ("id", "n"))
    assert table.frame["id"].tolist() == ["x", "y,\nz"]
    assert table.frame["n"].tolist() == ["007", "NA"]
    assert table.frame["row"].tolist() == [2, 4]
    assert table.where()[1] == f"{tmp_path / 'a.csv'}, row 4"


def test_byte_order_mark_and_windows_line_ends_are_no_part_of_a_name(tmp_path: Path) -> None:
    table = read_csv(write(tmp_path / "a.csv", b"\xef\xbb\xbfPath,Sex\r\na\\b.jpg,F\r\n"))
    assert list(table.frame.columns) == ["Path", "Sex", "row"]
    assert table.files("Path", Path("/data")) == [Path("/data/a/b.jpg")]


def test_what_is_no_table_is_told_in_one_line(tmp_path: Path) -> None:
    for content, words in (
        (b"", "not a CSV file"),
        (b"a,b\n1,2,3\n", "row 2: 3 cells under 2 columns"),
        (b"a,b\n1,\xff\n", "not UTF-8"),
        (b"a,b\n1,\x002\n", "NUL"),
        (b"a,a\n1,2\n", "'a' stands there twice"),
        (b"A,b\n1,2\n", "column 'a' is missing ('A' is there)"),
        (b'a,b\n"1,2\n', "not a CSV file"),
        (b"a\tb\nx, y\tz\n", "not separated by commas: use commas"),
        (b"a;age, years;b\nx;63,5;y\n", "not separated by commas: use commas"),
    ):
        path = write(tmp_path / "a.csv", content)
        message = error_of(read_csv, path, ("a", "b"), hint="use commas")
        assert words in message
        assert str(path) in message


def test_names_may_hold_semicolons_and_replace_a_header_that_lies(tmp_path: Path) -> None:
    for header in ("a,note (x; y; z)", "note (x; y),a"):
        assert len(read_csv(write(tmp_path / "a.csv", f"{header}\n1,2\n"), ("a",))) == 1
    path = write(tmp_path / "b.csv", "Index;Box [x,y,w,h]\nf.png,1,2,3,4\n")
    table = read_csv(path, names=("file", "x", "y", "w", "h"))
    assert table.frame.loc[0, ["file", "x", "h"]].tolist() == ["f.png", "1", "4"]


def test_wrong_rows_stop_or_are_noted_and_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "id,n\nx,1\ny,two\nz,\nw,inf\n")
    message = error_of(read_csv(path).numbers, "n")
    assert "row 3, column 'n': value 'two': use a number or blank" in message
    bad = BadRows()
    table = read_csv(path, bad=bad)
    np.testing.assert_array_equal(table.numbers("n"), [1.0, np.nan])
    assert table.frame["id"].tolist() == ["x", "z"]
    assert {file for file, _, _ in bad} == {str(path)}
    assert [row.split(", ")[1] for _, row, _ in bad] == ["row 3", "row 5"]


def test_states_know_four_values_only(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "f,g\n1.0,a\n0,b\n-1.00,c\n,d\n")
    np.testing.assert_array_equal(read_csv(path).states("f"), [1, 0, -1, np.nan])
    path = write(tmp_path / "b.csv", "f\n1.0\n0.5\n")
    assert "row 3, column 'f': value '0.5'" in error_of(read_csv(path).states, "f")


def test_paths_that_lead_elsewhere_are_wrong_rows() -> None:
    for text in (
        "../a.jpg",
        "a/../../b.jpg",
        "/etc/passwd",
        "C:\\a.jpg",
        "\\\\host\\a",
        "",
        "a\0b",
    ):
        assert not is_inside(text), text


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, b: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("fuzz") / "a.csv", b"id,n\n" + b)
    message = ""
    try:
        table = read_csv(path, ("id", "n"))
    except InputError as error:
        message = str(error)
    else:
        assert all(isinstance(v, str) for v in table.frame["id"])
    assert "\n" not in message
