"""The files of a batch job: ids of rows that stay, rows that keep their error, and mistakes in one line."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from gliclass_fast.cli.batch_files import ROWS_AT_A_TIME, ROWS_PER_FILE, files_of, tables
from gliclass_fast.cli.rows import FileFormatError, Reading, shown
from tests.serving import counted

OUTPUT = Path("no/such/output")
NULL, NUMBER = "the text is null", "the text must be a string, not int"


def write_parquet(path: Path, texts: Any, **columns: Any) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, **columns}), path, row_group_size=2)


def rows_of(source: Path, reading: Reading) -> list[dict[str, Any]]:
    found = [each for piece in files_of(source, reading, OUTPUT).pieces for each in tables(piece, reading)]
    return [row for each in found for row in each.to_pylist()]


def test_rows_of_all_kinds(tmp_path: Path) -> None:
    """Columns to keep have one type in all blocks; what the text column holds else is a row with an error."""
    write_parquet(tmp_path / "a.parquet", ["one", None, "three"], key=[7, None, 2**60])
    pyarrow.parquet.write_table(pyarrow.table({"text": [1, 2], "key": [3, 4]}), tmp_path / "n.parquet")
    (tmp_path / "b.csv").write_text('text,key\n"one\ntwo",7\n,x\n')
    lines = [{"text": "one", "key": {"x": 1}}, {"key": "y"}, {"text": 3}, "four"]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    lines = [{"text": "one", "key": {"x": "\ud800"}}, {"text": "two", "key": "\ud800"}]  # no valid Unicode
    (tmp_path / "d\udce9.jsonl").write_text("\n".join(map(json.dumps, lines)))
    expected: dict[str, list[tuple[Any, Any, Any]]] = {
        "a.parquet": [("one", 7, None), (None, None, NULL), ("three", 2**60, None)],
        "n.parquet": [(None, 3, NUMBER), (None, 4, NUMBER)],
        "b.csv": [("one\ntwo", "7", None), ("", "x", None)],
        "c.jsonl": [("one", '{"x": 1}', None), (None, "y", NULL), (None, None, NUMBER), ("four", None, None)],
        "d\udce9.jsonl": [("one", '{"x": "\\ud800"}', None), ("two", "\\ud800", None)],
    }
    for name, rows in expected.items():
        found = rows_of(tmp_path / name, Reading(keep=("key",)))
        assert [(each["text"], each["key"], each["error"]) for each in found] == rows
        assert [(each["row_id"], each["file"], each["row"]) for each in found] == [
            (number, shown(name), number) for number in range(1, len(rows) + 1)
        ]


def test_ids_are_those_of_the_file_and_the_row(tmp_path: Path) -> None:
    """Row groups are pieces of their own; names that begin with . or _ are no data; long files have parts."""
    for name in ("b", "a/c"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_parquet(tmp_path / f"{name}.parquet", [f"{name}{number}" for number in range(5)])
    for name in ("_SUCCESS", ".hidden", "a/_part"):
        (tmp_path / name).write_text("")
    files = files_of(tmp_path, Reading(), OUTPUT)
    assert (files.rows, files.state["files"]) == (10, 2)
    assert [(piece.name, piece.group, piece.first) for piece in files.pieces] == [
        (name, group, 2 * group) for name in ("a/c.parquet", "b.parquet") for group in range(3)
    ]
    found = rows_of(tmp_path, Reading())
    assert [row["row_id"] for row in found] == [
        n * ROWS_PER_FILE + row for n in (0, 1) for row in range(1, 6)
    ]
    assert [row["text"] for row in found] == [f"{name}{row}" for name in ("a/c", "b") for row in range(5)]
    long = tmp_path / "long.csv"
    long.write_text("text\n" + "".join(f"{number}\n" for number in range(ROWS_AT_A_TIME + 3)))
    assert [row["row"] for row in rows_of(long, Reading())] == list(range(1, ROWS_AT_A_TIME + 4))


def test_folders_that_are_links_are_searched_once(tmp_path: Path) -> None:
    """Links lead to any depth, and those that lead to a folder that was read already are left out."""
    inside, outside = tmp_path / "in", tmp_path / "outside"
    for folder in (inside / "a", outside / "deep"):
        folder.mkdir(parents=True)
    for path in (inside / "a/1.csv", outside / "2.csv", outside / "deep/3.csv"):
        path.write_text(f"text\n{path.name}\n")
    (inside / "b").symlink_to(outside)
    (inside / "c.csv").symlink_to(outside / "2.csv")
    (inside / "a/up").symlink_to(inside)
    for name in ("d", "e"):
        (inside / name).symlink_to(outside)
        (outside / name).symlink_to(outside)
    (outside / "deep/back").symlink_to(inside)
    (inside / ".hidden").symlink_to("nothing.csv")
    found = [(row["file"], row["text"]) for row in rows_of(inside, Reading())]
    assert found == [
        ("a/1.csv", "1.csv"), ("b/2.csv", "2.csv"), ("b/deep/3.csv", "3.csv"), ("c.csv", "2.csv"),
    ]  # fmt: skip


def test_an_output_within_the_input_through_a_link_is_refused(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.csv").write_text("text\none\n")
    (inside / "link").symlink_to(outside)
    with pytest.raises(FileFormatError, match=r"--output .*/out lies in .*/in/link, a folder of the input"):
        files_of(inside, Reading(), outside / "out")
    assert files_of(inside, Reading(), tmp_path / "out").rows == 2


def test_what_cannot_be_opened_in_a_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("text\none\n")
    (tmp_path / "secret").mkdir()
    scan = os.scandir

    def refused(path: str) -> Any:  # as it is for who is not root
        if path.endswith("secret"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refused)
        with pytest.raises(FileFormatError, match=r"secret is a folder that cannot be read: Permission"):
            files_of(tmp_path, Reading(), OUTPUT)
    (tmp_path / "secret/b.csv").symlink_to("nothing.csv")
    with pytest.raises(FileFormatError, match=r"secret/b\.csv is no file that can be opened: is it a link"):
        files_of(tmp_path, Reading(), OUTPUT)


def test_a_column_without_values_fits_every_type(tmp_path: Path) -> None:
    """Blocks have one type all the same, which is that of the files with values, also within lists."""
    inside = {
        "a": pyarrow.array([None], pyarrow.null()), "b": pyarrow.array([2**60]),
        "c": pyarrow.array([None], pyarrow.null()),
    }  # fmt: skip
    for name, keys in inside.items():
        tags = pyarrow.array([[]] if keys.null_count else [["x"]])
        write_parquet(tmp_path / f"{name}.parquet", ["one"], key=keys, tags=tags)
    reading = Reading(keep=("key", "tags"))
    files = files_of(tmp_path, reading, OUTPUT)
    found = [each for piece in files.pieces for each in tables(pickle.loads(pickle.dumps(piece)), reading)]
    assert [each.to_pylist()[0]["key"] for each in found] == [None, 2**60, None]
    assert [each.to_pylist()[0]["tags"] for each in found] == [[], ["x"], []]
    for each in found:
        assert each.schema.field("key").type == pyarrow.int64()
        assert each.schema.field("tags").type == pyarrow.list_(pyarrow.string())
    write_parquet(tmp_path / "d.parquet", ["one"], key=["1"], tags=[["x"]])
    with pytest.raises(FileFormatError, match=r"'key' is string in d\.parquet, but int64 in b\.parquet"):
        files_of(tmp_path, reading, OUTPUT)


def not_utf_8(*values: bytes | None) -> Any:
    return pyarrow.Array.from_buffers(pyarrow.string(), len(values), pyarrow.array(values).buffers())


def test_bytes_that_are_not_utf_8_cost_one_row(tmp_path: Path) -> None:
    """The text gets an error, as in JSON lines, and columns to keep can be read by others."""
    column = not_utf_8(b"one", b"caf\xe9", None)
    for name, texts in (("a", column), ("b", column.dictionary_encode())):
        write_parquet(tmp_path / f"{name}.parquet", texts, key=column)
        found = rows_of(tmp_path / f"{name}.parquet", Reading(keep=("key",)))
        assert [row["text"] for row in found] == [row["key"] for row in found] == ["one", r"caf\udce9", None]
        fault = "the text is not valid: surrogates not allowed at position 3"
        assert [row["error"] for row in found] == [None, fault, NULL]
    nested = pyarrow.ListArray.from_arrays([0, 1, 2, 3], column)
    write_parquet(tmp_path / "c.parquet", ["one", "two", "three"], key=nested)
    with pytest.raises(FileFormatError, match=r"column 'key' of c\.parquet is not valid: .*UTF8"):
        rows_of(tmp_path / "c.parquet", Reading(keep=("key",)))


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_parquet(path, [f"{number} {'word ' * 50}" for number in range(4)])
    chunk = pyarrow.parquet.read_metadata(path).row_group(1).column(0)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * chunk.total_compressed_size)
    first, second = files_of(path, Reading(), OUTPUT).pieces
    assert len(list(tables(first, Reading()))) == 1
    with pytest.raises(FileFormatError, match=r"a\.parquet, row group 1 cannot be read: "):
        list(tables(second, Reading()))


def test_an_empty_part_of_json_lines_has_no_keys(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "b.jsonl").write_text('{"text": "one", "key": 1}')
    rows = rows_of(tmp_path, Reading(keep=("key",)))
    assert [(row["file"], row["key"]) for row in rows] == [("b.jsonl", "1")]


def test_the_state_tells_whether_the_input_has_changed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", "two"])
    states = [files_of(tmp_path, Reading(), OUTPUT).state, files_of(tmp_path, Reading(), OUTPUT).state]
    os.utime(tmp_path / "a.parquet", (1, 1))
    states.append(files_of(tmp_path, Reading(), OUTPUT).state)
    write_parquet(tmp_path / "b.parquet", ["three"])
    states.append(files_of(tmp_path, Reading(), OUTPUT).state)
    assert states[0] == states[1] and len({json.dumps(state) for state in states}) == 3


def _bad(folder: Path) -> dict[str, tuple[list[str], str]]:
    """Returns arguments by the name of a mistake, and what the message says."""
    write_parquet(folder / "good.parquet", ["one"], key=[1])
    write_parquet(folder / "none.parquet", pyarrow.array([], "string"))
    (folder / "broken.parquet").write_bytes(b"PAR1 no")
    (folder / "good.csv").write_text("text,text\na,b\n")
    (folder / "head.csv").write_text("text\n")
    (folder / "bad.jsonl").write_text('{"text": "one"}\n{"text": \n')
    (folder / "keys.jsonl").write_text('{"body": "one"}\n')
    (folder / "report.pdf").write_text("")
    for name in ("mixed", "empty", "types"):
        (folder / name).mkdir()
    for name in ("mixed/a.csv", "mixed/b.jsonl"):
        (folder / name).write_text("text\na\n")
    write_parquet(folder / "types/a.parquet", ["one"], key=[1])
    write_parquet(folder / "types/b.parquet", ["one"], key=["1"])
    return {
        "missing column": (
            [str(folder / "good.parquet"), "--column", "body"],
            "good.parquet has no column 'body'",
        ),
        "missing keep": (
            [str(folder / "good.parquet"), "--keep", "date"],
            "good.parquet has no column 'date'",
        ),
        "missing key": ([str(folder / "keys.jsonl")], "keys.jsonl has no column 'text' but: body"),
        "two columns": ([str(folder / "good.csv")], "has 2 columns named 'text'"),
        "no file": ([str(folder / "nothing.csv")], "nothing.csv: No such file"),
        "broken parquet": ([str(folder / "broken.parquet")], "is not a parquet file that can be read"),
        "no rows": ([str(folder / "none.parquet")], "none.parquet has no texts"),
        "header alone": ([str(folder / "head.csv")], "head.csv has no texts"),
        "bad line": ([str(folder / "bad.jsonl")], "bad.jsonl, line 2 is not valid JSON"),
        "unknown kind": ([str(folder / "report.pdf")], "unknown file type"),
        "mixed": ([str(folder / "mixed")], "holds files of several kinds: a.csv, b.jsonl"),
        "types": (
            [str(folder / "types"), "--keep", "key"],
            "'key' is string in b.parquet, but int64 in a.parquet",
        ),
        "no files": ([str(folder / "empty")], "has no files"),
        "own name": ([str(folder / "good.parquet"), "--keep", "row"], "results have a column 'row'"),
        "in the input": ([str(folder / "mixed"), "--output", str(folder / "mixed/out")], "lies in it"),
        "no folder": (
            [str(folder / "good.parquet"), "--output", str(folder / "no/out")],
            "there is no folder",
        ),
        "another's": (
            [str(folder / "good.parquet"), "--output", str(folder / "types"), "--resume"],
            "types.options.json, so nothing tells how it was made: give another --output",
        ),
    }


def test_a_mistake_is_one_line(tmp_path: Path) -> None:
    """It shows before Ray starts, and nothing is written."""
    for name, (arguments, message) in _bad(tmp_path).items():
        options = [
            "--labels",
            "a,b",
            *([] if "--output" in arguments else ["--output", str(tmp_path / "out")]),
        ]
        result = CliRunner().invoke(counted.app, [*options, *arguments])
        assert result.exit_code == 2, name
        assert message in result.stderr and len(result.stderr.splitlines()) == 1, (name, result.stderr)
    assert not list(tmp_path.glob("out*"))
