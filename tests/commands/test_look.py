"""`dinokit look` from the shell, and `dinokit.look` in a notebook."""

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

import dinokit
from dinokit.cli import run as command
from dinokit.core.messages import UserError
from dinokit.images.film import Writer, frames
from dinokit.models.pixels import PatchPixels
from dinokit.models.vit import VisionTransformer
from tests.conftest import MakeFolder

MakeVit = Callable[..., VisionTransformer]


@pytest.mark.parametrize(
    "words",
    [("pca",), ("pca", "--style", "dinov2"), ("similarity", "--at", "3,4", "8,9"), ("attention",), ("clusters",)],
)
def test_a_row_per_image_and_columns_per_model(
    words: tuple[str, ...], make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder("1.png", "2.png", "3.png", sizes=((16, 16), (24, 16)))
    run = make_run(str(root), steps=(0, 10))
    models = [str(run / "checkpoints" / step) for step in ("0", "10")]
    out = tmp_path / "out" / "sheet.png"
    start = ["look", words[0], str(root / "1.png"), str(root), "--model", *models, "--out", str(out), "--size", "32"]
    assert command([*start, *words[1:]]) == 0
    with Image.open(out) as page:
        shape = page.size
    columns = {"pca": 3, "similarity": 5, "attention": 7, "clusters": 3}[words[0]]
    assert shape == (48 * columns + 8 * (columns - 1), 4 * (32 + 16 + 8) - 8)


def test_what_cannot_be_drawn_is_one_line(
    make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder("1.png")
    model = str(make_run(str(root), steps=(0,)) / "checkpoints" / "0")
    start = ["--model", model, "--out", str(tmp_path / "x.png"), "--size", "16"]
    film = moving(tmp_path / "film.gif")
    (tmp_path / "a.mp4").write_bytes(b"")
    for words, said in {
        ("similarity", str(root), *start): "nothing is marked; give --at X,Y",
        ("similarity", str(root), *start, "--at", "3"): "--at: expected X,Y in pixels such as 120,80, got '3'",
        ("pcas", str(root), *start): "pca",
        ("pca", str(root), *start[:2], "--out", str(tmp_path)): "expected --out to be a picture such as",
        ("pca", str(root), *start[:2], "--out", str(tmp_path / "x.psd")): "expected --out to be a picture such as",
        ("pca", str(root), *start[:2], "--out", str(tmp_path / "x.bmp"), "--figure"): "expected --out to be a picture",
        ("attention", str(root), *start, "--block", "7"): "7",
        ("pca", str(root), *start[:-1], "0"): "--size must be at least 1, got 0",
        ("pca", str(root), *start[:2]): "--out must be given: dinokit look KIND IMAGES --out OUT",
        ("pca", str(root), *start[2:]): "--model must be given: whose features pca shows",
        ("neighbours", str(root), *start[2:]): "neighbours needs --index E, which `dinokit embed --out E` wrote",
        ("pca", str(root), *start, "--index", "x"): "pca takes no --index",
        ("neighbours", str(root), *start, "--index", "x"): "takes the model that the index was made with",
        ("evolution", str(root), *start[2:]): "no images are given; evolution takes RUN IMAGES",
        ("evolution", model, str(root), *start[2:]): "expected a run folder with two or more checkpoints",
        ("matches", str(root), *start): "matches are of two images, got 1; give A and B",
        ("pca", str(film), *start): "film.gif is a film; expected --out to be one, .gif .webp .mp4, got",
        ("matches", str(film), *start): "is a film, which attention, clusters, pca, similarity take, not matches",
        ("pca", str(film), *start[:2], "--out", str(tmp_path / "x.gif"), "--figure"): "a film is no figure",
        ("pca", str(tmp_path / "a.mp4"), str(root), *start): "a.mp4 is a film and is looked at alone, got 2 words",
    }.items():
        assert command(["look", *words]) == 2, words
        told = capsys.readouterr().err
        assert said in told, words
        assert told.count("\n") == 1


def moving(place: Path) -> Path:
    with Writer(place, ending=place.suffix) as film:
        for shade in (10, 200, 90):
            film.add(Image.fromarray(numpy.indices((20, 16)).sum(axis=0).astype(numpy.uint8) + shade), 120)
    return place


@pytest.mark.parametrize("ending", [".gif", ".webp", ".mp4"])
def test_a_clip_becomes_a_clip(ending: str, make_vit: MakeVit, tmp_path: Path) -> None:
    film, out = moving(tmp_path / "film.gif"), tmp_path / f"out{ending}"
    first = dinokit.look("pca", film, model=[make_vit(), PatchPixels(patch_size=4)], out=out, size=16)
    assert first.size == (3 * 16 + 2 * 8, 20 + 16)
    found = list(frames(out))
    assert len(found) == 3
    assert [lasts for _, lasts in found] == pytest.approx([120] * 3, abs=1)


@pytest.mark.parametrize("ending", [".png", ".webp", ".gif"])
def test_the_checkpoints_of_a_run_are_columns_or_frames(
    ending: str, make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder("1.png", "2.png")
    run, out = make_run(str(root), steps=(0, 10, 20, 100)), tmp_path / f"out{ending}"
    words = ["evolution", str(run), str(root), "--out", str(out), "--at", "3,4", "--size", "16", "--columns", "3"]
    assert command(["look", *words]) == 0
    rows = 2 * 2  # images, each with components and cosines
    with Image.open(out) as page:
        columns = 2 if ending == ".gif" else 4
        assert page.size == (columns * 24 - 8, rows * 40 - 8)
        assert getattr(page, "n_frames", 1) == (4 if ending == ".gif" else 1)


def test_models_of_other_patches_are_beside_each_other(make_vit: MakeVit) -> None:
    image = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=numpy.uint8))
    page = dinokit.look("pca", image, model=[make_vit(), PatchPixels(patch_size=5), PatchPixels(patch_size=4)], size=32)
    assert page.size == (4 * 48 + 3 * 8, 32 + 16)  # of the first, whose patches fit
    assert numpy.asarray(page)[16:, 56:].std() > 20


def test_what_python_holds_is_looked_at_as_a_file_is(make_vit: MakeVit, tmp_path: Path) -> None:
    vit = make_vit()
    pixels = numpy.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    expected = numpy.asarray(dinokit.look("pca", str(tmp_path / "a.png"), model=vit, size=16))[16:]
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    for image in (tmp_path / "a.png", Image.fromarray(pixels), pixels, tensor, tensor.float() / 255):
        found = dinokit.look("pca", image, model=vit, size=16)
        assert numpy.array_equal(numpy.asarray(found)[16:], expected)
    several = dinokit.look("pca", numpy.stack([pixels, pixels]), model=vit, size=16)
    assert several.size == (56, 2 * 40 - 8)
    marked = [dinokit.look("similarity", pixels, model=vit, size=16, at=at) for at in ((3, 4), [(3, 4)], "3,4")]
    assert marked[0].tobytes() == marked[1].tobytes() == marked[2].tobytes()
    assert dinokit.look("matches", [pixels, pixels], model=vit, size=16, among="all").height == 496
    with pytest.raises(UserError, match="expected a run folder with two or more checkpoints, got VisionTransformer"):
        dinokit.look("evolution", Image.new("RGB", (16, 16)), model=make_vit())
    with pytest.raises(UserError, match="no image is given"):
        dinokit.look("pca", [], model=vit)


def test_two_loaded_models_without_a_name_have_a_column_each(make_vit: MakeVit) -> None:
    image = numpy.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=numpy.uint8)
    assert dinokit.look("pca", image, model=[make_vit(), make_vit(seed=1)], size=16).width == 3 * 16 + 2 * 8


def test_neighbours_of_a_file(make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder("1.png", "2.png", "3.png")
    model = str(make_run(str(root), steps=(0,)) / "checkpoints" / "0")
    assert command(["embed", "--model", model, "--data", str(root), "--out", str(tmp_path / "pool")]) == 0
    words = ["neighbours", str(root / "2.png"), "--index", str(tmp_path / "pool"), "--k", "2", "--size", "16"]
    assert command(["look", *words, "--out", str(tmp_path / "out.png")]) == 0
    with Image.open(tmp_path / "out.png") as page:
        assert page.size == (4 * 24 - 8, 2 * 40 - 8)


def test_a_figure_is_written_and_returned(make_vit: MakeVit, tmp_path: Path) -> None:
    image = numpy.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=numpy.uint8)
    page = dinokit.look("pca", image, model=make_vit(), size=64, out=tmp_path / "a.svg")
    assert isinstance(page, Image.Image)
    assert ">image 1</text>" in (tmp_path / "a.svg").read_text()
    figure = dinokit.look("pca", image, model=make_vit(), size=64, figure=True)
    assert [type(each).__name__ for each in (figure, *figure.axes)] == ["Figure", "Axes", "Axes"]


def test_an_image_that_is_too_long_is_passed_over_unless_it_is_named(
    make_run: MakeFolder, make_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make_folder("1.png", "2.png")
    Image.new("RGB", (1, 400)).save(root / "line.png")
    model, pool, out = (
        str(make_run(str(root), steps=(0,)) / "checkpoints" / "0"),
        str(tmp_path / "pool"),
        tmp_path / "x.png",
    )
    end = ["--out", str(out), "--size", "16"]
    assert command(["embed", "--model", model, "--data", str(root), "--out", pool]) == 0
    said = "line.png would be 16x6400 pixels, at most 4096 a side fit; give a smaller --size"
    for words, rows in {
        ("pca", str(root), "--model", model): 2,
        ("neighbours", str(root / "1.png"), "--index", pool): 2,
        ("neighbours", str(root), "--index", pool): 4,
    }.items():
        capsys.readouterr()
        assert command(["look", *words, *end]) == 0, words
        assert f"line.png is passed over: {said}" in capsys.readouterr().err
        with Image.open(out) as page:
            assert page.size[1] == rows * 40 - 8
    (tmp_path / "alone").mkdir()
    (root / "line.png").rename(tmp_path / "alone" / "line.png")
    for words in (str(tmp_path / "alone"), str(tmp_path / "alone" / "line.png")):
        assert command(["look", "pca", words, "--model", model, *end]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]


def test_too_many_patches_for_attention_are_refused_before_any_features(
    make_vit: MakeVit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    vit, images = make_vit(), [Image.new("RGB", (16, 16)), Image.new("RGB", (16, 64))]
    monkeypatch.setattr("dinokit.looks.attention.MOST", 20)
    monkeypatch.setattr(vit, "forward", None)  # calling it would fail otherwise
    with pytest.raises(UserError, match="image 2 has 64 patches, attention takes 20; give a smaller --size"):
        dinokit.look("attention", images, model=vit, size=16)
    with pytest.raises(UserError, match=r"film\.gif has 20 patches, attention takes 19"):
        monkeypatch.setattr("dinokit.looks.attention.MOST", 19)
        dinokit.look("attention", moving(tmp_path / "film.gif"), model=vit, size=16, out=tmp_path / "out.gif")


def test_what_python_gives_by_mistake_is_a_line() -> None:
    image, model = Image.new("RGB", (16, 16)), PatchPixels(patch_size=4)
    with pytest.raises(UserError, match="--model: expected a name, a folder or a loaded model, got a NoneType"):
        dinokit.look("pca", image, model=None)
    with pytest.raises(UserError, match="expected a file, a folder, a picture or an array, or a list, got a NoneType"):
        dinokit.look("pca", None, model=model)
    with pytest.raises(UserError, match="--at: expected X,Y in pixels such as 120,80, got '3'"):
        dinokit.look("similarity", image, model=model, at=3)
