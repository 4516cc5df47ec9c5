"""Files are whole or absent."""

import os
from pathlib import Path

import pytest

from dinokit.core.errors import UserError
from dinokit.core.files import append_jsonl, check_writable, read_jsonl, write_atomic, write_jsonl, write_text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError), write_atomic(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_line_cut_by_a_crash_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_jsonl(path, {"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "los')
    assert read_jsonl(path) == [{"step": 1}]


def test_damaged_lines_and_odd_names_do_not_stop_a_reader(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    values = [{"key": os.fsdecode(b"\xff.png")}, {"key": "line\u2028separator \N{SNOWMAN}"}]
    append_jsonl(path, values[0])
    with path.open("ab") as file:
        file.write(b'{"step": "\xff\xfe"}\n\x00\x00\n[1]\n')
    append_jsonl(path, values[1])
    assert read_jsonl(path) == values
    write_jsonl(path, values)
    assert read_jsonl(path) == values


def test_a_place_that_cannot_be_written_is_known_before_and_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    for place in ("/proc/nowhere", "/dev/full/x"):
        with pytest.raises(UserError, match=f"cannot write to {place}"):
            check_writable(Path(place))
