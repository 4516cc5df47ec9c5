"""A pool is the same whatever happened on the way to it."""

import json
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dinokit.checkpoints.load import load
from dinokit.checkpoints.store import header
from dinokit.core.messages import RunError, UserError
from dinokit.curation.pool import Pool
from dinokit.features.embed import Feature, embed, embedder, missing, part_size, work_of
from dinokit.features.embedding import unit
from dinokit.features.extraction import extract
from dinokit.features.pipeline import compute
from dinokit.images.intensity import Pixels
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import open_source
from tests.started import Started
from tests.vits import ARCHITECTURE

FILES = tuple(f"{folder}/{index}.png" for folder in "ab" for index in range(5))
MakeVit = Callable[..., VisionTransformer]
MakeFolder = Callable[..., Path]


@pytest.fixture
def data(make_folder: MakeFolder) -> Path:
    """Ten images of three sizes, one of them broken; in parts of four."""
    root = make_folder(*FILES, sizes=((16, 16), (24, 18), (16, 32)))
    (root / "a" / "3.png").write_bytes(b"no image")
    return root


@pytest.fixture
def model(data: Path, make_run: MakeFolder) -> Path:
    """A network that has not learned anything."""
    return make_run(str(data), steps=(0,)) / "checkpoints" / "0"


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


def filled(model: Path, data: Path, out: Path) -> Pool:
    pool = embed(model, str(data), out, part=4, workers=0, precision="fp32")
    assert pool is not None
    return pool


def test_what_was_begun_in_bf16_goes_on_in_it_without_a_word(model: Path, data: Path, tmp_path: Path) -> None:
    first = embed(model, str(data), tmp_path / "out", part=4, workers=0, precision="bf16")
    again = embed(model, str(data), tmp_path / "out", part=4, workers=0)
    assert first is not None
    assert again is not None
    assert again.stamp == first.stamp
    other = embed(model, str(data), tmp_path / "other", part=4, workers=0)
    assert other is not None
    assert other.stamp["precision"] == "fp32"  # the network is narrow


def test_rows_are_the_unit_features_of_the_images(model: Path, data: Path, tmp_path: Path, make_vit: MakeVit) -> None:
    pool = filled(model, data, tmp_path / "out")
    exact = extract(make_vit(), open_source(str(data)))
    assert tuple(pool.keys) == exact.keys
    expected = unit(torch.from_numpy(exact.vectors)).numpy()
    # half a unit in the last place of float16, below 1; other batches move the last bits of float32
    numpy.testing.assert_allclose(pool.vectors.read(0, 9), expected, rtol=2**-11, atol=1e-6)
    table = pool.table().to_pydict()
    assert table["row"] == exact.indices.tolist()
    assert table["class"] == ["a"] * 4 + ["b"] * 5
    assert list(zip(table["width"], table["height"]))[:3] == [(16, 16), (24, 18), (16, 32)]
    assert len(set(table["bytes_digest"])) == 9
    assert json.loads((tmp_path / "out" / "bad_images.jsonl").read_text())["key"] == "a/3.png"


@pytest.mark.parametrize("feature", ["cls", "cls+patches"])
def test_the_model_of_a_pool_sees_again_what_it_saw(model: Path, data: Path, tmp_path: Path, feature: Feature) -> None:
    pool = embed(model, str(data), tmp_path / "out", feature=feature, workers=0, precision="fp32")
    assert pool is not None
    source = pool.images()
    again = embedder(pool)([source.read(index) for index in range(9)])
    numpy.testing.assert_allclose(again, pool.vectors.read(0, 9), rtol=2**-10, atol=1e-6)
    pool.stamp["weights"] = "other"
    with pytest.raises(UserError, match="made with other weights"):
        embedder(pool)


def test_a_model_of_gray_images_sees_colour_images_as_its_pool_did(data: Path, tmp_path: Path) -> None:
    gray = VisionTransformer(replace(ARCHITECTURE, channels=1))
    gray.pixels = Pixels((0.5,), (0.25,), 16)
    save_file(gray.state_dict(), tmp_path / "gray.safetensors", header(gray.config, gray.pixels, step=0))
    pool = embed(tmp_path / "gray.safetensors", str(data), tmp_path / "out", workers=0, precision="fp32")
    assert pool is not None
    colour = open_source(str(data), channels=3)
    again = embedder(pool)([colour.read(row) for row in pool.table(["row"])["row"].to_pylist()])
    # the pool's gray is rounded to whole levels
    assert (again * pool.vectors.read(0, len(pool))).sum(axis=1).min() > 0.999


def test_cls_and_patches_are_joined_before_they_are_normalised(
    model: Path, data: Path, tmp_path: Path, make_vit: MakeVit
) -> None:
    pool = embed(model, str(data), tmp_path / "out", feature="cls+patches", workers=2, precision="fp32")
    assert pool is not None
    source, backbone = open_source(str(data)), make_vit()
    with torch.no_grad():
        features = backbone((source.read(0)[None].float() / 255 - 0.5) / 0.25)
    expected = unit(torch.cat([features.cls, features.patches.mean(dim=1)], dim=1)).numpy()
    numpy.testing.assert_allclose(pool.vectors.read(0, 1), expected, rtol=2**-10, atol=1e-5)


def test_sizes_are_those_of_the_upright_file_and_flags_say_what_is_special(
    model: Path, tmp_path: Path, make_folder: MakeFolder
) -> None:
    root = make_folder("a.png", name="others")
    noise = numpy.random.default_rng(0).integers(0, 255, (80, 120), dtype=numpy.uint8)
    lying, photo = Image.Exif(), Image.fromarray(noise)
    lying[274] = 6
    photo.save(root / "b.jpg", exif=lying)  # decoded at a fraction of its size
    photo.save(root / "c.png")
    photo.save(root / "d.png", compress_level=0)
    table = filled(model, root, tmp_path / "out").table().to_pydict()
    assert list(zip(table["width"], table["height"])) == [(16, 16), (80, 120), (120, 80), (120, 80)]
    assert table["flags"] == [[], ["gray"], ["gray"], ["gray", "twin"]]
    assert len(set(table["bytes_digest"])) == 4


@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_and_a_kill_change_no_byte_and_no_image_is_read_twice(
    model: Path, data: Path, tmp_path: Path, ranks: int
) -> None:
    whole, out, source = tmp_path / "whole", tmp_path / "out", open_source(str(data))
    filled(model, data, whole)
    filled(model, data, out)
    for path in out.glob("part-*"):
        path.unlink()
    parts = missing(out, source)
    assert [(part.number, part.indices.tolist()) for part in parts] == [
        (0, [0, 1, 2, 3]),
        (1, [4, 5, 6, 7]),
        (2, [8, 9]),
    ]
    done = [part for rank in range(1, ranks) for part in parts[rank::ranks]]  # rank 0 was killed
    work = work_of(load(str(model)), source, out)
    for rank in range(1, ranks):
        compute(work, parts[rank::ranks], workers=2)
    (out / "part-00000.npy").write_bytes(b"an array without its table does not count")
    (out / ".part-00000.npy.77.part").write_bytes(b"half")
    for index in numpy.concatenate([part.indices for part in done]).tolist():
        (data / source.key(index)).write_bytes(b"whoever reads this again finds no image")
    filled(model, data, out)
    assert files(out) == files(whole)


def test_images_that_were_added_are_embedded_alone(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filled(model, data, out)
    before = files(out)
    (data / "a" / "00.png").write_bytes((data / "a" / "1.png").read_bytes())
    (data / "c.png").write_bytes((data / "a" / "2.png").read_bytes())
    for name in FILES:
        (data / name).write_bytes(b"not read again")
    pool = filled(model, data, out)
    assert list(pool.keys)[9:] == ["a/00.png", "c.png"]
    assert (pool.vectors.read(9, 10) == pool.vectors.read(1, 2)).all()
    added = {"part-00003.npy", "part-00003.parquet"}
    assert files(out).keys() == before.keys() | added
    assert {name: content for name, content in files(out).items() if name not in added | {"embed.json"}} == {
        name: content for name, content in before.items() if name != "embed.json"
    }
    assert len(filled(model, data, out)) == 11  # and once more: nothing is new


def test_what_was_deleted_is_computed_again_or_forgotten(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    filled(model, data, out)
    whole = files(out)
    (out / "part-00001.npy").unlink()
    filled(model, data, out)
    assert files(out) == whole
    (out / "part-00002.npy").unlink()
    for name in FILES[8:]:
        (data / name).unlink()  # nothing takes the number of their part
    assert len(filled(model, data, out)) == 7


def test_a_pool_finds_its_model_from_any_folder(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    pool = filled(Path(model.name), data, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    assert embedder(pool)([pool.images().read(0)]).shape == (1, pool.vectors.dim)


def test_a_source_that_shrank_loses_nothing(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = filled(model, data, tmp_path / "out")
    assert "the limit (the network waited for images" in capsys.readouterr().err
    (data / "b" / "1.png").unlink()
    after = filled(model, data, tmp_path / "out")
    said = capsys.readouterr().err
    assert "shrank: 1 of the embedded images are gone, such as b/1.png; their vectors stay" in said
    assert "nothing new in" in said
    assert after.digest == before.digest


def test_a_network_that_breaks_leaves_what_was_computed(
    model: Path, data: Path, tmp_path: Path, make_vit: MakeVit
) -> None:
    out = tmp_path / "out"
    filled(model, data, out)
    (out / "part-00001.parquet").unlink()
    kept, backbone = files(out), make_vit()
    backbone.cls_token.data.fill_(torch.nan)
    work = work_of(backbone, open_source(str(data)), out, batch=2)
    with pytest.raises(RunError, match=r"not finite, first for a/4\.png; its weights are broken"):
        compute(work, missing(out, work.source), workers=0)
    assert files(out) == kept


def test_what_cannot_be_done_is_said(model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    (tmp_path / "file").write_text("x")
    for out, message in {"mine": "thesis.txt", "file": "got the file"}.items():
        with pytest.raises(UserError, match=message):
            embed(model, str(data), tmp_path / out)
    with pytest.raises(UserError, match="lies among the images of"):
        embed(model, str(data), data / "a" / "features")  # arrays are images, too
    with pytest.raises(UserError, match="cannot write to /proc/embedded"):
        embed(model, str(data), "/proc/embedded")
    assert files(tmp_path / "mine") == {"thesis.txt": b"years"}
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none that can be read; the first: a\.png"):
        embed(model, str(broken), tmp_path / "none")
    filled(model, data, tmp_path / "out")
    with pytest.raises(UserError, match="was made with other feature and dim .*; delete it"):
        embed(model, str(data), tmp_path / "out", feature="cls+patches", precision="fp32")

    def full(*_: object, **__: object) -> None:
        raise OSError("1234 requested and 56 written")  # as NumPy says it: without the system's words

    (tmp_path / "out" / "part-00001.parquet").unlink()
    before = files(tmp_path / "out")
    monkeypatch.setattr(numpy, "save", full)
    with pytest.raises(RunError, match="No space left on device; what was computed stays"):
        filled(model, data, tmp_path / "out")
    del before["embed.json"]  # says that it is not complete
    assert {name: content for name, content in files(tmp_path / "out").items() if name != "embed.json"} == before


def test_a_folder_holds_thousands_of_parts_not_millions() -> None:
    assert [part_size(images) for images in (0, 1, 262_144, 262_400, 10**6, 10**9)] == [1024] * 3 + [2048, 4096, 65536]


@pytest.mark.slow
def test_a_kill_ends_all_processes_and_the_pool_comes_out_the_same(model: Path, data: Path, tmp_path: Path) -> None:
    for index in range(160):
        (data / f"b{index}.png").write_bytes((data / "b" / "1.png").read_bytes())
    whole, out = tmp_path / "whole", tmp_path / "out"
    filled(model, data, whole)
    filled(model, data, out)
    for path in out.glob("part-*"):
        path.unlink()
    words = ["--model", model, "--data", data, "--out", out, "--precision", "fp32", "--workers", 0, "--processes", 2]
    process = Started("embed", *words)
    while not any(out.glob("part-*.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    time.sleep(2.5)  # the other one looks every second whether the first is there
    kept = {path: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    filled(model, data, out)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert files(out) == files(whole)
