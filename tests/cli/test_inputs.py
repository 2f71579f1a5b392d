"""What is given to classify is read strictly, in every form, and standard input as it comes."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gliclass_fast.cli.inputs import BYTES_AT_A_TIME, Lines, is_file_name, source_of
from gliclass_fast.cli.readers import read_rows
from gliclass_fast.cli.rows import FileFormatError, Reading, Row

FILE_NAMES = [
    "reviews.json", "data.tsv", "x.csv.gz", "Report.PDF", "/dev/nothing", "./x", "../x", "~/x", ".", "..",
    "my reviews.csv", "my reviews.JSONL.gz", "/home/me/all my reviews.txt", r"C:\data\x", "data/x.parquet",
    "~nobody-of-this-name/x.csv",
]  # fmt: skip
TEXTS = [
    "", "hello", "I read it in notes.txt", "and/or", "node.js", "example.com", "https://example.com/a", "1/2",
    "Read report.pdf", "...", "a.\nb.txt", "See notes.txt.", "/shrug I do not know",
]  # fmt: skip


@pytest.mark.parametrize("name", FILE_NAMES)
def test_the_name_of_a_missing_file_is_never_a_text(name: str) -> None:
    assert is_file_name(name)
    with pytest.raises(ValueError, match=r"No such file|is a folder"):
        source_of([name], Reading())
    with pytest.raises(ValueError, match="give one file, or texts only"):
        source_of(["a text", name], Reading())


def test_other_texts_are_texts() -> None:
    assert not any(map(is_file_name, TEXTS))
    [part] = source_of(TEXTS, Reading()).parts(128)
    assert [row.text for row in part] == TEXTS and part[2].place == "text 3"


def written(folder: Path, name: str, content: str, encoding: str = "utf-8") -> Path:
    path = folder / name
    data = content.encode(encoding)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["~root/a.txt", "./~root.txt", "~nobody-of-this-name.txt"])
def test_names_that_begin_with_a_tilde(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~root").mkdir()
    written(tmp_path, name, "one")
    [part] = source_of([name], Reading()).parts(128)
    assert [row.text for row in part] == ["one"]


FORMS = {
    ".txt": "one\nzwei für\n\n",
    ".csv": 'id,text\n7,one\n8,"zwei für"\n9,\n',
    ".tsv": "text\tid\none\t7\nzwei für\t8\n\t9\n",
    ".json": '[{"text": "one", "id": 7}, "zwei für", ""]',
    ".jsonl": '{"text": "one", "id": 7}\n"zwei für"\n\n{"text": ""}\n',
}


@pytest.mark.parametrize("suffix", FORMS)
@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("encoding", [None, "UTF8", "utf-16"])
def test_every_form_packed_and_in_other_encodings(
    tmp_path: Path, suffix: str, end: str, encoding: str | None
) -> None:
    path = written(
        tmp_path, f"in{suffix}{end}", FORMS[suffix], encoding if encoding == "utf-16" else "utf-8-sig"
    )
    rows = read_rows(path, Reading(encoding=encoding))
    assert [row.text for row in rows] == ["one", "zwei für", ""]
    assert all(row.error is None for row in rows)


def test_columns_delimiters_and_places(tmp_path: Path) -> None:
    path = written(tmp_path, "in.csv", 'a;body\n1;"two\nlines"\n\n2;x\n')
    rows = read_rows(path, Reading("body", ("a",), delimiter=";"))
    for wrong, option in (
        (Reading("b", delimiter=";"), "--column"),
        (Reading("body", ("b",), delimiter=";"), "--keep"),
        (Reading("body", ("a",), delimiter=";", adapter_column="b"), "--adapter-column"),
    ):
        with pytest.raises(FileFormatError, match=f"no column 'b' but: a, body. Choose one with {option}$"):
            read_rows(path, wrong)
    assert rows == [Row("line 2", "two\nlines", {"a": "1"}), Row("line 5", "x", {"a": "2"})]


@pytest.mark.parametrize("kind", [".csv", ".tsv", ".csv.gz"])
def test_a_blank_line_of_a_single_column_is_an_empty_text(tmp_path: Path, kind: str) -> None:
    path = written(tmp_path, f"in{kind}", 'text\r\n\r\none\r\n\r\n\r\n"two\n\nlines"\r\n\r\n')
    found = [(row.place, row.text) for row in read_rows(path, Reading())]
    assert found == [
        ("line 2", ""), ("line 3", "one"), ("line 4", ""), ("line 5", ""), ("line 6", "two\n\nlines"),
    ]  # fmt: skip


MALFORMED = [
    ("in.csv", 'id,text\n1,"unclosed\n2,second\n3,third\n', "line 2 is not valid CSV: a quote is never"),
    ("in.csv", 'id,text\n1,"a"b\n', "line 2 is not valid CSV"),
    ("in.csv", "id,text\n1,a\n2,b,c\n", "line 3 has 3 cells, but the header has 2"),
    ("in.tsv", "id\ttext\n1\n", "line 2 has 1 cells"),
    ("in.csv", "text,id,text\na,1,b\n", "has 2 columns named 'text'"),
    ("in.csv", "id,body\n1,b\n", "no column 'text' but: id, body"),
    ("in.csv", "", r"in\.csv is empty: its first line should name the columns"),
    ("in.tsv.gz", "", r"in\.tsv\.gz is empty"),
    ("in.csv", "\n\ntext\na\n", "line 1 is empty, but should name the columns"),
    ("in.json", '{"text": "a"}', "must hold a list"),
    ("in.json", '{"text": "a"}\n{"text": "b"}\n', r"a value per line is \.jsonl"),
    ("in.json", '[{"id": 1}]', "no column 'text' but: id"),
    ("in.json", "[]\n[]", "a value per line"),
    ("in.jsonl", '{"text": "a"}\n{"te', "line 2 is not valid JSON"),
    ("in.json", f"[{'1' * 5000}]", "is not valid JSON: Exceeds the limit"),
    ("in.jsonl", f'"a"\n{"1" * 5000}\n', "line 2 is not valid JSON: Exceeds the limit"),
    ("in.parquet", "PAR1", "is not a parquet file"),
    ("in.parquet.gz", "x", "unknown file type"),
    ("in.docx", "x", "unknown file type"),
    ("in.txt", "caf\xe9", "line 1 is not UTF-8 text.*--encoding"),
    ("in.txt", "a line\n" * 20000 + "caf\xe9s\n", "line 20001 is not UTF-8 text: invalid continuation byte"),
    ("in.jsonl", '"a"\n\n{"text": \n', r"line 3 is not valid JSON: Expecting value \(column 10\)$"),
]


TWICE = [
    ("in.json", '[{"text": "a", "text": "b"}]', "is not valid JSON: an object has the name 'text' twice"),
    ("in.jsonl", '"a"\n{"text": "a", "id": {"b": 1, "b": 2}}\n', "line 2 is .* has the name 'b' twice"),
]


@pytest.mark.parametrize(("name", "content", "message"), [*MALFORMED, *TWICE])
def test_malformed_files_name_the_place(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = written(tmp_path, name, content, "latin-1")
    with pytest.raises(FileFormatError, match=message) as found:
        source_of([str(path)], Reading())
    assert name in str(found.value)


def test_a_byte_that_cannot_be_decoded_in_files_of_many_kinds(tmp_path: Path) -> None:
    lines = "a line\n" * 20000
    large = written(tmp_path, "in.txt", lines, "utf-16-be")
    large.write_bytes(b"\xfe\xff" + large.read_bytes() + b"\xdc\x00\x00a")
    with pytest.raises(FileFormatError, match="line 20001 is not utf-16 text"):
        read_rows(large, Reading(encoding="utf-16"))
    unmarked = written(tmp_path, "unmarked.txt", "a line\n", "utf-8")
    with pytest.raises(FileFormatError, match=r"unmarked\.txt is not utf-16 text.*--encoding"):
        read_rows(unmarked, Reading(encoding="utf-16"))
    cut = written(tmp_path, "in.txt.gz", lines + "caf\xe9\n" * 9, "latin-1")
    cut.write_bytes(cut.read_bytes()[:-6])
    with pytest.raises(FileFormatError, match=r"in\.txt\.gz"):
        read_rows(cut, Reading())
    os.mkfifo(pipe := tmp_path / "pipe.txt")
    writer = threading.Thread(target=pipe.write_bytes, args=(b"caf\xe9s\n",))
    writer.start()
    with pytest.raises(FileFormatError, match=r"pipe\.txt is not UTF-8 text"):
        read_rows(pipe, Reading())
    writer.join()


def test_a_cut_gzip_file_and_wrong_options(tmp_path: Path) -> None:
    path = written(tmp_path, "in.txt.gz", "a text\n" * 1000)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(FileFormatError, match="not a whole gzip file"):
        read_rows(path, Reading())
    for name in ("utf-88", "base64"):
        with pytest.raises(ValueError, match=f"unknown encoding '{name}'"):
            Reading(encoding=name)
    for delimiter in ("||", "", '"', "\n", "\r", "\0"):
        with pytest.raises(ValueError, match="--delimiter is one character"):
            Reading(delimiter=delimiter)
    with pytest.raises(ValueError, match="takes the word tab"):
        Reading(delimiter=r"\t")
    with pytest.raises(ValueError, match="a column 'error' of their own"):
        Reading(keep=("error",))
    for wrong, option in (
        (Reading(keep=("id",)), "--keep"),
        (Reading("body", keep=("body",)), "--keep"),
        (Reading(adapter_column="error"), "--adapter-column"),  # which is no column of the result
        (Reading(adapter_column="text"), "--adapter-column"),
    ):
        with pytest.raises(ValueError, match=f"^{option} is for the columns of a file"):
            source_of(["a text"], wrong)
        with pytest.raises(FileFormatError, match=f"has no columns; {option} is for files that have"):
            read_rows(written(tmp_path, "in.txt", "a text"), wrong)


def test_null_and_other_types_are_rows_with_an_error_in_every_form(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    values: list[Any] = ["good", None, 3]
    parquet = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": ["good", None]}), parquet)
    numbers = tmp_path / "numbers.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": [3]}), numbers)
    lines = "\n".join(json.dumps({"text": value}) for value in values)
    rows = {
        "json": read_rows(written(tmp_path, "in.json", json.dumps(values)), Reading()),
        "jsonl": read_rows(written(tmp_path, "in.jsonl", f'{lines}\n{{"id": 4}}\n"\\ud800"\n'), Reading()),
        "parquet": read_rows(parquet, Reading()) + read_rows(numbers, Reading()),
    }
    for found in rows.values():
        assert [row.error for row in found[:3]] == [
            None,
            "the text is null",
            "the text must be a string, not int",
        ]
    assert [row.error for row in rows["jsonl"][3:]] == [
        "the text is null",
        "the text is not valid: surrogates not allowed at position 0",
    ]
    assert [row.place for row in rows["jsonl"][:2]] == ["line 1", "line 2"]
    assert [row.place for row in rows["parquet"][:2]] == ["row 1", "row 2"]


def test_texts_of_parquet_that_are_not_utf_8_cost_one_row(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    values = pyarrow.array([b"one", b"caf\xe9", None])
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 3, values.buffers())
    path = tmp_path / "in.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "key": texts}), path, compression="snappy")
    found = read_rows(path, Reading(keep=("key",)))
    fault = "the text is not valid: surrogates not allowed at position 3"
    assert [row.error for row in found] == [None, fault, "the text is null"]
    assert [row.kept["key"] for row in found] == ["one", r"caf\udce9", None]
    assert read_rows(path, Reading(adapter_column="text"))[0].kept == {"text": "one"}
    lists = pyarrow.ListArray.from_arrays([0, 1, 2, 3], texts)
    pyarrow.parquet.write_table(pyarrow.table({"text": ["a", "b", "c"], "key": lists}), path)
    with pytest.raises(FileFormatError, match=r"in\.parquet, column 'key', holds a value that .*utf-8"):
        read_rows(path, Reading(keep=("key",)))


def test_a_damaged_page_of_parquet_names_the_file(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "in.parquet"
    texts = [f"text {number}" for number in range(500)]
    pyarrow.parquet.write_table(
        pyarrow.table({"text": texts}), path, compression="snappy", use_dictionary=False
    )
    damaged = bytearray(path.read_bytes())
    damaged[60:160] = bytes(100)
    path.write_bytes(damaged)
    with pytest.raises(FileFormatError, match=r"in\.parquet is not a parquet file that can be read: "):
        read_rows(path, Reading())


def test_json_lines_without_a_line_have_every_column(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl.gz").write_bytes(gzip.compress(b""))
    for path in (written(tmp_path, "in.jsonl", "\n"), tmp_path / "in.jsonl.gz"):
        assert read_rows(path, Reading(keep=("key",))) == []
    with pytest.raises(FileFormatError, match="no column 'key' but: nothing"):
        read_rows(written(tmp_path, "in.jsonl", '"a text"\n'), Reading(keep=("key",)))


class Pieces(io.BytesIO):
    """Is a pipe, into which the given pieces come one after the other."""

    def __init__(self, pieces: list[bytes]) -> None:
        super().__init__()
        self.left = iter(pieces)
        self.taken = 0

    def read1(self, size: int | None = -1) -> bytes:
        self.taken += 1
        return next(self.left, b"")


def test_standard_input_gives_what_has_arrived() -> None:
    pipe = Pieces([b"\xef\xbb\xbfone\r\ntw", b"o\n", b"caf\xc3", b"\xa9\n\n" + b"x\n" * 5, b"l\xffst"])
    parts = Lines("standard input", pipe, Reading()).parts(4)
    assert next(parts) == [Row("line 1", "one")] and pipe.taken == 1
    assert next(parts) == [Row("line 2", "two")] and pipe.taken == 2
    assert [row.text for row in next(parts)] == ["café", "", "x", "x"]
    assert [row.text for row in next(parts)] == ["x", "x", "x"]
    [last] = next(parts)
    assert last.error == "the line is not UTF-8 text" and last.place == "line 10"
    assert next(parts, None) is None


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
@pytest.mark.parametrize("kind", ["-", ".txt", ".txt.gz", ".jsonl", ".json", ".csv", ".tsv"])
def test_a_line_feed_alone_ends_a_text(kind: str, end: str, tmp_path: Path) -> None:
    """Carriage returns, form feeds and Unicode's line separators are text, from a pipe and in every file."""
    texts = ["a\rb", "\rc", "d\x0be\x0cf\x85g\u2028h\u2029i", "", "j\r\rk"]
    if kind.startswith(".json"):
        lines = [json.dumps(text) for text in texts]
        lines = lines if kind == ".jsonl" else ["[", f",{end}".join(lines), "]"]
    elif kind in (".csv", ".tsv"):
        lines = ["text", *(f'"{text}"' for text in texts)]
    else:
        lines = texts
    data = "".join(line + end for line in lines).encode()
    if kind == "-":
        rows = [row for part in Lines("standard input", Pieces([data]), Reading()).parts(9) for row in part]
    else:
        path = tmp_path / f"rows{kind}"
        path.write_bytes(gzip.compress(data) if kind.endswith(".gz") else data)
        rows = read_rows(path, Reading())
    assert [row.text for row in rows] == texts and not any(row.error for row in rows)


def test_an_endless_pipe_is_never_held_whole() -> None:
    endless = Pieces([])
    endless.left = itertools.repeat(b"a line of text\n" * 4000)
    rows = Lines("standard input", endless, Reading()).parts(128)
    found = [row.place for _ in range(1000) for row in next(rows)]
    assert found[-1] == f"line {len(found)}" and endless.taken == 1 + len(found) // 4000
    assert BYTES_AT_A_TIME <= 1 << 16


def test_other_encodings_of_a_pipe() -> None:
    data = "für\r\nzwei\n".encode("utf-16")
    pieces = [data[place : place + 3] for place in range(0, len(data), 3)]
    parts = Lines("standard input", Pieces(pieces), Reading(encoding="utf-16")).parts(8)
    assert [row.text for part in parts for row in part] == ["für", "zwei"]


def command(*arguments: str, **options: Any) -> Any:
    line = [sys.executable, "-m", "gliclass_fast", *arguments]
    return subprocess.run(line, capture_output=True, check=False, **options)


HEAVY = (  # pydantic is not among them, as typer itself reads options with it where it is installed
    *("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy", "pandas", "pyarrow"),
    *("gliclass", "triton", "peft", "ray", "fastapi", "starlette", "uvicorn", "yaml", "requests"),
    *("asyncio", "multiprocessing"),
)


@pytest.mark.long
def test_help_the_version_and_mistakes_need_no_torch() -> None:
    program = """
import sys
import threading
from typer.testing import CliRunner
from gliclass_fast.cli.app import app
for line in (["--help"], ["--version"], ["classify", "--help"], ["bench", "--help"], ["info", "--help"],
             ["classify", "missing.json", "--labels", "a"]):
    print(CliRunner().invoke(app, line).exit_code, end=" ")
    found = {each.partition(".")[0] for each in sys.modules} & set(sys.argv[1:])
    print(found, "rich.progress" in sys.modules)
"""
    line = [sys.executable, "-c", program, *HEAVY]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{code} set() False" for code in (0, 0, 0, 0, 0, 2)], done.stderr


@pytest.mark.long
def test_a_closed_standard_input_is_a_message() -> None:
    line = f"{sys.executable} -m gliclass_fast classify --labels a,b <&-"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "standard input is closed" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_utf_8_whatever_the_console_says_and_lines_as_they_come() -> None:
    line = [sys.executable, "-m", "gliclass_fast", "classify", "-", "--labels", "a,b", "--device", "cpu"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdin is not None and process.stdout is not None
        for text in ("試合 🏆", "second"):  # the answer comes while the pipe is open
            process.stdin.write(f"{text}\r\n".encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["text"] == text
        process.stdin.close()
    assert process.returncode == 0
