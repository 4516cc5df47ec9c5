"""A folder of dense features is the same whatever happened on the way to it, and opens without being read."""

import json
import os
import shutil
import signal
import time
from collections import namedtuple
from pathlib import Path

import numpy
import pytest

from dinokit.checkpoints.load import load
from dinokit.cli import run as command
from dinokit.core.messages import UserError
from dinokit.dense.arrays import Arrays
from dinokit.dense.embed import embed_dense, missing, part_size
from dinokit.dense.pixels import Sampling, sampled
from dinokit.sources.source import open_source
from tests.conftest import MakeFolder
from tests.started import Started

FILES = tuple(f"{folder}/{index}.png" for folder in "ab" for index in range(3))
PATCHES = Sampling(stride=None)


@pytest.fixture
def data(make_folder: MakeFolder) -> Path:
    """Six images of three sizes, one of them broken; in parts of two."""
    root = make_folder(*FILES, sizes=((16, 16), (24, 18), (16, 32)))
    (root / "a" / "2.png").write_bytes(b"no image")
    return root


@pytest.fixture
def model(data: Path, make_run: MakeFolder) -> Path:
    """A network that has not learned anything."""
    return make_run(str(data), steps=(0,)) / "checkpoints" / "0"


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def filled(model: Path, data: Path, out: Path, sampling: Sampling = PATCHES) -> Arrays:
    arrays = embed_dense(model, str(data), out, sampling=sampling, part=2, precision="fp32")
    assert arrays is not None
    return arrays


@pytest.mark.parametrize("sampling", [PATCHES, Sampling(stride=2, size=32, shifts=2, upsample="bilateral")])
def test_arrays_are_the_features_of_the_images(model: Path, data: Path, tmp_path: Path, sampling: Sampling) -> None:
    arrays = filled(model, data, tmp_path / "out", sampling)
    source, backbone = open_source(str(data)), load(str(model))
    assert arrays.keys == tuple(name for name in FILES if name != "a/2.png")
    for index, row in enumerate(arrays.table["row"].to_pylist()):
        assert isinstance(arrays[index], numpy.memmap)
        assert numpy.array_equal(arrays[index], sampled(backbone, source.read(row), sampling).array())
    assert len(list(arrays)) == len(arrays) == 5
    assert arrays.table["class"].to_pylist() == ["a"] * 2 + ["b"] * 3
    assert list(zip(*arrays.table.select(["width", "height"]).to_pydict().values()))[:3] == [
        (16, 16),
        (24, 18),
        (16, 16),
    ]
    assert json.loads((tmp_path / "out" / "bad_images.jsonl").read_text())["key"] == "a/2.png"
    arrays.check()
    path = tmp_path / "out" / arrays.table["file"][0].as_py()
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="holds other features than those that were embedded"):
        arrays.check()


def test_a_stop_anywhere_changes_no_byte_and_no_image_is_read_twice(model: Path, data: Path, tmp_path: Path) -> None:
    """What a kill can leave: no table yet, a line that was cut, a table whose array is gone, half an array."""
    whole, out = tmp_path / "whole", tmp_path / "out"
    filled(model, data, whole)
    shutil.copytree(whole, out)
    lines = Arrays(out).table.to_pylist()
    (out / "part-00000.parquet").unlink()
    (out / ".part-00000.jsonl").write_text(json.dumps(lines[0]) + '\n{"row": 1, "key')
    (out / lines[1]["file"]).unlink()
    (out / lines[4]["file"]).unlink()
    (out / "part-00000" / ".000000001.npy.77.part").write_bytes(b"half")
    assert [missing(out, number, size=2, images=6) for number in range(3)] == [[1], None, [5]]
    for name in ("a/0.png", "b/0.png", "b/1.png"):
        (data / name).write_bytes(b"whoever reads this again finds no image")
    filled(model, data, out)
    assert files(out) == files(whole)


def test_other_settings_and_other_folders_are_refused_by_name(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filled(model, data, out)
    with pytest.raises(
        UserError, match="was made with other sampling .stride is 2, was null.; delete it, or give another folder"
    ):
        filled(model, data, out, Sampling(stride=2))
    (data / "c.png").write_bytes((data / "a" / "0.png").read_bytes())
    with pytest.raises(UserError, match="was made with other source"):
        filled(model, data, out)
    with pytest.raises(UserError, match="holds no dense features"):
        Arrays(data)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "embed.json").write_text("{}")
    with pytest.raises(UserError, match="holds other files such as embed.json"):
        filled(model, data, tmp_path / "mine")
    (out / "part-00001.parquet").unlink()
    with pytest.raises(UserError, match="is not finished; the same dinokit embed --dense again goes on with it"):
        Arrays(out)


def test_a_disk_that_is_too_small_is_refused_before_any_work(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room = namedtuple("room", "total used free")
    wanted = f"{5 * os.statvfs(tmp_path).f_frsize / 1e6:.3f}"  # a block of the disk for each that can be read
    monkeypatch.setattr(shutil, "disk_usage", lambda _: room(10**9, 10**9, 3000))
    with pytest.raises(
        UserError, match=rf"the features of 6 images take {wanted} MB more in .*, 0\.003 MB are free; give --out"
    ):
        filled(model, data, tmp_path / "out")
    assert not list((tmp_path / "out").glob("part-*"))
    monkeypatch.undo()
    filled(model, data, tmp_path / "out")
    assert f"6 images take {wanted} MB more in" in capsys.readouterr().err


def test_the_verb_refuses_what_would_do_nothing(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["embed", "--model", str(model), "--data", str(data), "--out", str(tmp_path / "out")]
    for words, said in {
        ("--stride", "2"): "--stride is for --dense alone; leave it out or add --dense",
        ("--dense", "--batch", "2"): "--batch does nothing with --dense; leave it out",
        ("--dense", "--feature", "cls"): "--feature does nothing with --dense; leave it out",
        ("--dense", "--upsample", "bilateral"): "--upsample goes from patches to places between them; give --stride",
        ("--dense", "--shifts", "3"): "shifts 3 does not divide the patch of 4 pixels; use one of 1, 2, 4",
        ("--dense", "--size", "0"): "size must be at least 1, or null, got 0",
    }.items():
        assert command([*start, *words]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert command([*start, "--dense", "--stride", "4", "--shifts", "2"]) == 0
    assert "5 images · 16 numbers a place · 1 unreadable" in capsys.readouterr().err
    assert Arrays(tmp_path / "out")[0].shape == (4, 4, 16)


def test_a_part_is_what_a_rank_takes() -> None:
    assert [part_size(images) for images in (0, 1, 4096, 5000, 10**6, 10**9)] == [16, 16, 16, 32, 4096, 4096]


@pytest.mark.slow
def test_a_kill_of_all_ranks_and_the_folder_comes_out_the_same(model: Path, data: Path, tmp_path: Path) -> None:
    for index in range(160):
        (data / f"b{index}.png").write_bytes((data / "b" / "1.png").read_bytes())
    whole, out = tmp_path / "whole", tmp_path / "out"
    words = ["--model", model, "--data", data, "--precision", "fp32", "--dense", "--stride", "1", "--processes", 2]
    start = ["embed", *words, "--out"]
    assert Started(*start, whole).wait() == 0
    process = Started(*start, out)
    while len(list(out.glob("part-*/*.npy"))) < 20:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(2.5)  # the other one looks every second whether the first is there
    kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*/*.npy")}
    assert Started(*start, out).wait() == 0
    again = [path for path, written in kept.items() if path.stat().st_mtime_ns != written]
    assert len(again) <= 2  # what each rank had at hand between array and line
    assert files(out) == files(whole)
