"""Kept features: what is said beforehand is written, no more than is asked for, and a full disk costs nothing."""

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import numpy
import pytest
import torch

from dinokit.annotations.boxes import Boxed, open_boxes
from dinokit.core.messages import RunError, UserError
from dinokit.dense.detr import kept as room
from dinokit.dense.detr import stamps
from dinokit.dense.detr.kept import Kept, asked, is_mirror, octets
from dinokit.dense.detr.learning import order_of
from dinokit.dense.detr.views import View, width_of
from tests.conftest import MakeVit
from tests.evaluation.test_detection import scenes

VIEW = View(size=24, longest=40)
Usage = namedtuple("Usage", "total used free")


def few(root: Path) -> Boxed:
    return open_boxes(str(scenes(root / "data", counts={"train": 3})), split="train")


def test_what_is_said_of_the_disk_is_what_is_written(tmp_path: Path, make_vit: MakeVit) -> None:
    data, backbone = few(tmp_path), make_vit(size=None)
    Kept(backbone, data, ["blue", "red"], VIEW, tmp_path / "features")
    arrays = [numpy.load(file) for file in sorted((tmp_path / "features").glob("*.npy"))]
    each = octets(VIEW, data.marks[0].size, patch=4, width=width_of(backbone, VIEW))
    assert [array.nbytes for array in arrays] == [each] * 6
    files = sum(file.stat().st_size for file in (tmp_path / "features").glob("*.npy"))
    assert 6 * each < files <= 6 * (each + room.BLOCK)


def test_only_what_the_training_asks_for_is_computed(tmp_path: Path, make_vit: MakeVit) -> None:
    data, order = few(tmp_path), order_of(3, seed=5)
    wanted = asked(3, steps=2, batch_size=1, seed=5)
    views = Kept(make_vit(size=None), data, ["blue", "red"], VIEW, tmp_path / "features", wanted=wanted)
    files = {file.name for file in (tmp_path / "features").glob("*.npy")}
    assert files == {f"{index:07d}{'m' if mirror else ''}.npy" for index, mirror in wanted}
    for place in range(2):
        index, key = order(place)
        array = numpy.load(tmp_path / "features" / f"{index:07d}{'m' if is_mirror(key) else ''}.npy")
        assert torch.equal(views(index, key).map, torch.from_numpy(array).float())
    assert len(asked(3, steps=100, batch_size=4, seed=5)) == 6


def test_where_there_is_no_room_the_numbers_are_the_same_and_a_line_says_so(
    tmp_path: Path, make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data, backbone = few(tmp_path), make_vit(size=None)
    there = Kept(backbone, data, ["blue", "red"], VIEW, tmp_path / "features")
    capsys.readouterr()
    monkeypatch.setattr(room.shutil, "disk_usage", lambda _: Usage(10**6, 10**6, 10**3))
    computed = Kept(backbone, data, ["blue", "red"], VIEW, tmp_path / "small", passes=70)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "features of 6 views of 3 images take 0.0 MB" in line
    assert "computed at every step, which runs the network 70 times instead of 6" in line
    assert not list((tmp_path / "small").glob("*.npy"))
    for index, mirror in ((0, False), (2, True)):
        one, other = there.seen(index, mirror=mirror), computed.seen(index, mirror=mirror)
        assert torch.equal(one.map, other.map)
        assert torch.equal(one.objects.boxes, other.objects.boxes)


def test_a_disk_that_fills_up_is_said_and_what_is_there_is_used(
    tmp_path: Path, make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, written = few(tmp_path), list[Path]()
    save = numpy.save

    def full(file: object, array: numpy.ndarray) -> None:
        written.append(tmp_path)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, array)  # type: ignore[arg-type]

    monkeypatch.setattr(room.numpy, "save", full)
    with pytest.raises(RunError, match="after 3 of 6 views, which stay; free space"):
        Kept(make_vit(size=None), data, ["blue", "red"], VIEW, tmp_path / "features")
    assert len(list((tmp_path / "features").iterdir())) == 3 + 1  # and the stamp, and no part of a file
    Kept(make_vit(size=None), data, ["blue", "red"], VIEW, tmp_path / "features")
    assert len(written) == 4 + 3


@pytest.mark.parametrize("damage", ["cut", "empty", "other numbers", "another shape"])
def test_a_damaged_view_is_said_and_computed_anew(
    tmp_path: Path, make_vit: MakeVit, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    views = Kept(make_vit(size=None), few(tmp_path), ["blue", "red"], VIEW, tmp_path / "features")
    file = tmp_path / "features" / "0000001m.npy"
    whole, before = file.read_bytes(), views.seen(1, mirror=True).map
    array = numpy.load(file)
    if damage in ("cut", "empty"):
        file.write_bytes(whole[: 50 if damage == "cut" else 0])
    else:
        numpy.save(file, array[:, 1:] if damage == "another shape" else array.astype(numpy.float32))
    capsys.readouterr()
    for _ in range(2):
        assert torch.equal(views.seen(1, mirror=True).map, before)
    assert capsys.readouterr().err.splitlines() == [
        f"warning: {file} is damaged; its features are computed anew",
    ]
    assert file.read_bytes() == whole


def test_features_of_an_unknown_origin_are_refused(tmp_path: Path, make_vit: MakeVit) -> None:
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "0000000.npy").touch()
    with pytest.raises(UserError, match="was made with other weights"):
        Kept(make_vit(size=None), few(tmp_path), ["blue", "red"], VIEW, tmp_path / "features")


def test_images_that_are_asked_for_alone_are_read_and_once(
    tmp_path: Path, make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, backbone, folder, read = few(tmp_path), make_vit(size=None), tmp_path / "features", list[str]()
    digest_of_files = stamps.digest_of_files
    monkeypatch.setattr(
        stamps, "digest_of_files", lambda paths: (read.append(paths[0].stem), digest_of_files(paths))[1]
    )
    for wanted, now in (([(1, False)], ["1"]), ([(1, False), (2, True)], ["2"]), (None, ["0"])):
        Kept(backbone, data, ["blue", "red"], VIEW, folder, wanted=wanted)
        assert read == now
        read.clear()
    image = data.marks[1].image
    os.utime(image, (1, 1))  # as in a copy of the folder
    Kept(backbone, data, ["blue", "red"], VIEW, folder)
    assert read == ["1"]
    shutil.copyfile(data.marks[0].image, image)
    Kept(backbone, data, ["blue", "red"], VIEW, folder, wanted=[(0, False)])
    with pytest.raises(UserError, match="was made with other images;"):
        Kept(backbone, data, ["blue", "red"], VIEW, folder)


def test_features_under_one_digest_of_all_images_are_refused(tmp_path: Path, make_vit: MakeVit) -> None:
    data, backbone, folder = few(tmp_path), make_vit(size=None), tmp_path / "features"
    Kept(backbone, data, ["blue", "red"], VIEW, folder)
    stamp = json.loads((folder / room.STAMP).read_text())
    (folder / room.STAMP).write_text(json.dumps(stamp | {"images": "0123"}))
    with pytest.raises(UserError, match=r"was made with other images \("):
        Kept(backbone, data, ["blue", "red"], VIEW, folder)


def test_features_that_float16_cannot_hold_are_refused(tmp_path: Path, make_vit: MakeVit) -> None:
    backbone = make_vit(size=None)
    backbone.norm.weight.data.fill_(1e6)
    with pytest.raises(RunError, match="beyond what float16 holds"):
        Kept(backbone, few(tmp_path), ["blue", "red"], VIEW, tmp_path / "features")
