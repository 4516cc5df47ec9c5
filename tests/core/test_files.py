"""Files are whole or absent, a folder has one owner, and nothing is used again that something else made."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dinokit.core.files import (
    append_jsonl,
    check_result,
    check_same,
    check_writable,
    digest_of_files,
    digest_of_model,
    digest_of_weights,
    keep_lines,
    odd_bytes,
    only_owner,
    read_json,
    read_jsonl,
    read_text,
    utf8,
    write_atomic,
    write_json,
    write_jsonl,
    write_state,
    write_text,
)
from dinokit.core.messages import RunError, UserError
from dinokit.models.vit import Config, VisionTransformer

HOLD = """
import sys, pathlib
from dinokit.core.files import only_owner
with only_owner(pathlib.Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


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


def test_a_log_keeps_what_is_wanted_and_is_not_written_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    write_jsonl(path, [{"step": 3, "key": "a"}, {"step": "x"}, {"key": "b"}, {"step": 4}])
    keep_lines(path, lambda line: line["step"] <= 3)
    assert read_jsonl(path) == [{"step": 3, "key": "a"}]
    before = path.stat()
    keep_lines(path, lambda line: line["step"] <= 3)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    keep_lines(tmp_path / "none.jsonl", lambda line: False)
    assert not (tmp_path / "none.jsonl").exists()


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


def test_odd_bytes_of_a_name_pass_through_a_table() -> None:
    for name in ("a.png", "\u2603.png", os.fsdecode(b"\xff\xe9.png")):
        text = utf8(name)
        assert text.encode().decode() == text
        assert odd_bytes(text) == name


def test_a_place_that_cannot_be_written_is_known_before_and_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    for place in ("/proc/nowhere", "/dev/full/x"):
        with pytest.raises(UserError, match=f"cannot write to {place}"):
            check_writable(Path(place))


def test_a_folder_in_place_of_a_file_is_refused_with_a_name_of_its_kind(tmp_path: Path) -> None:
    for ending, wanted in (("", ".json"), (".onnx", ".onnx")):
        place = tmp_path / f"out{ending}"
        place.mkdir()
        with pytest.raises(UserError, match=f"is a folder; --out takes a file such as {place}/result{wanted}$"):
            check_result(place)


def test_json_holds_no_number_that_json_lacks(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": math.nan, "b": [1.5, math.inf], "c": (2, None)})
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == {"a": None, "b": [1.5, None], "c": [2, None]}


class ReadOnlyName(OSError):
    """As PyAV raises them."""

    filename = property(lambda _: None)  # type: ignore[assignment]


def test_a_full_disk_is_said_with_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left.*result.json"), write_atomic(tmp_path / "result.json"):
        Path("/dev/full").write_bytes(bytes(4096))
    with pytest.raises(OSError, match="No space left.*film.mp4"), write_atomic(tmp_path / "film.mp4"):
        raise ReadOnlyName(28, "No space left on device")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match=r"Is a directory: '.*/folder'"), write_atomic(tmp_path / "folder") as temporary:
        temporary.touch()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_texts_are_utf8_with_or_without_a_mark_or_one_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    for encoding in ("utf-8", "utf-8-sig"):
        path.write_bytes("Müll\n".encode(encoding))
        assert read_text(path) == "Müll\n"
    for encoding in ("latin-1", "utf-16", "utf-16-le"):
        path.write_bytes("Müll\n".encode(encoding))
        with pytest.raises(UserError, match=r"classes\.txt is no text of UTF-8 .*; save it as UTF-8"):
            read_text(path)
    with pytest.raises(UserError, match="cannot open .*: No such file"):
        read_text(tmp_path / "none")


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5000])
def test_what_is_no_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json is no JSON") as caught:
        read_json(tmp_path / "a.json")
    assert "\n" not in str(caught.value)


def test_a_folder_has_one_owner_until_its_process_ends(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another process writes to .*folder; wait for it"), only_owner(folder):
            pass
        other.kill()
    with only_owner(folder):
        pass
    assert not list(folder.iterdir())


@pytest.mark.parametrize("count", [10, 10**6])  # torch notices at the end of a file, or within it
def test_a_full_disk_costs_the_state_of_before_nothing(tmp_path: Path, count: int) -> None:
    path = tmp_path / "training.pt"
    write_state(path, {"step": 1})
    path.with_name(f".training.pt.{os.getpid()}.part").symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"^no room is left for .*training.pt; free space: the same command goes on$"):
        write_state(path, {"step": torch.zeros(count)})
    assert [file.name for file in tmp_path.iterdir()] == ["training.pt"]
    assert torch.load(path, weights_only=True) == {"step": 1}


def test_what_was_made_otherwise_is_refused_by_the_part_that_differs(tmp_path: Path) -> None:
    stamp = {"weights": "a", "settings": {"k": [1]}, "data": "b"}
    check_same(dict(stamp), stamp, place=tmp_path)
    for kept, said in (
        (stamp | {"data": "c"}, r"other data \(data is b, was c\);"),
        ({"weights": "a"}, "other settings and data;"),
        ([1], "weights and settings and data"),
    ):
        with pytest.raises(UserError, match=said):
            check_same(kept, stamp, place=tmp_path)


def test_a_setting_that_differs_is_said_once_with_its_values(tmp_path: Path) -> None:
    def stamp(seed: int, weights: str) -> dict[str, Any]:
        usual = replace(Config(patch_size=4, dim=8, depth=2, heads=2), norm_eps=0.5 + seed)
        settings = {"seed": seed, "inner": {"rates": [0.1, 0.2], "norm_eps": 0.5 + seed}}
        return {"weights": weights * 32, "settings": settings, "recipe": f"R(view={usual!r}, seed={seed})"}

    with pytest.raises(UserError) as said:
        check_same(stamp(0, "a"), stamp(1, "b"), place=tmp_path, instead="give the same")
    changed = "weights and settings and recipe (seed is 1, was 0; norm_eps is 1.5, was 0.5)"
    assert str(said.value) == f"{tmp_path} was made with other {changed}; give the same"


def test_files_are_told_by_what_they_hold(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"12")
    second.write_bytes(b"3")
    found = digest_of_files([first, second])
    assert digest_of_files([second, first]) != found
    first.write_bytes(b"1")
    second.write_bytes(b"23")
    assert digest_of_files([first, second]) != found


def test_weights_are_told_by_every_bit() -> None:
    network = nn.Linear(2, 2)
    found = digest_of_weights(network)
    with torch.no_grad():
        network.weight[0, 0] = torch.nextafter(network.weight[0, 0], torch.tensor(9.0))
    assert digest_of_weights(network) != found


def test_a_model_is_told_by_what_its_weights_do() -> None:
    small = Config(patch_size=4, dim=16, depth=1, heads=2, ffn_hidden=32, position="offset", position_grid=4)
    same = digest_of_model(VisionTransformer(small))
    assert digest_of_model(VisionTransformer(replace(small, drop_path=0.1))) == same
    several: tuple[dict[str, Any], ...] = ({"heads": 4}, {"position": "antialias"}, {"norm_eps": 1e-6})
    for changes in several:
        assert digest_of_model(VisionTransformer(replace(small, **changes))) != same


def test_a_result_is_written_over_a_result_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    check_result(out, json=True)
    for there in (b"", b"{}", b' \n[{"a": 1}]', b"\xef\xbb\xbf{}"):
        out.write_bytes(there)
        check_result(out, json=True)
    for there in (b"\x89PNG\r\n", b"{\0\0\0\0\0\0\0{}", b"path,label\n"):
        out.write_bytes(there)
        with pytest.raises(UserError, match="out is there and no JSON; --out would write over it: give another file"):
            check_result(out, json=True)
        assert out.read_bytes() == there
