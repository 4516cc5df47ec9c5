"""Features are computed once, whatever happens meanwhile, and are those of the images."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from shutil import rmtree

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from dinokit.core import dist
from dinokit.core.messages import RunError, UserError
from dinokit.features import cache as kept
from dinokit.features.embedding import encode, unit
from dinokit.features.extraction import extract, forgotten
from dinokit.features.parts import Kept, Part, Work
from dinokit.images.transforms import Square, Transform
from dinokit.models.features import Backbone
from dinokit.models.pixels import RawPixels
from dinokit.models.vit import VisionTransformer
from dinokit.sources.source import in_memory, open_source
from tests.ranks import on_ranks
from tests.vits import ARCHITECTURE

FILES = tuple(f"{folder}/{index}.png" for folder in "ab" for index in range(5))
SIZES = ((16, 16), (20, 16), (16, 24))

MakeVit = Callable[..., VisionTransformer]
MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache: the images of all tests are alike."""
    folder = tmp_path_factory.mktemp("cache") / "none"
    monkeypatch.setenv("DINOKIT_CACHE", str(folder))
    return folder


@pytest.mark.parametrize("size", [16, None])
def test_a_row_does_not_depend_on_batches_and_threads(
    make_vit: MakeVit, make_folder: MakeFolder, size: int | None
) -> None:
    source = open_source(str(make_folder(*FILES, sizes=SIZES)))
    backbone = make_vit(size=size)
    one_by_one = extract(backbone, source, batch=1, workers=0)
    # float32 sums in another order: a few ulp of values around 1
    for batch_size, workers in ((3, 0), (64, 2)):
        together = extract(backbone, source, batch=batch_size, workers=workers)
        numpy.testing.assert_allclose(together.vectors, one_by_one.vectors, atol=1e-5)
        assert together.keys == one_by_one.keys == tuple(source.key(index) for index in range(len(source)))


def test_rows_are_the_backbone_of_the_prepared_image(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    source = open_source(str(make_folder(*FILES)))
    backbone = make_vit()
    result = extract(backbone, source)
    image = (source.read(7).float() / 255 - 0.5) / 0.25  # 16 px already: no resize
    with torch.no_grad():
        expected = backbone(image[None])
    torch.testing.assert_close(torch.from_numpy(result.vectors[7]), expected.cls[0], atol=1e-5, rtol=0)
    assert result.labels is not None
    assert result.labels.tolist() == [0] * 5 + [1] * 5


@pytest.mark.parametrize("size", [24, None])  # enlarged; as they are
def test_the_depth_of_a_file_does_not_matter(make_vit: MakeVit, tmp_path: Path, size: int | None) -> None:
    """Two pictures, each as 8-bit PNG, as 16-bit TIFF and as a float array, mixed in one batch."""
    values = numpy.random.default_rng(0).integers(0, 256, (2, 16, 16), dtype=numpy.uint8)
    for name, picture in zip("ab", values, strict=True):
        Image.fromarray(picture).save(tmp_path / f"{name}.png")
        Image.fromarray(picture.astype(numpy.uint16) * 257).save(tmp_path / f"{name}.tif")
        numpy.save(tmp_path / f"{name}.npy", picture / 255)
    found = extract(make_vit(size=size), open_source(str(tmp_path)))
    assert found.keys == ("a.npy", "a.png", "a.tif", "b.npy", "b.png", "b.tif")
    a, b = found.vectors[:3], found.vectors[3:]
    # enlarging rounds the 8-bit twin by half a level
    tolerance = 0.02 if size else 1e-5
    assert abs(a - a[0]).max() < tolerance
    assert abs(b - b[0]).max() < tolerance
    assert abs(a - b).max() > 0.1


def test_broken_images_are_listed_and_the_others_stay_aligned(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder(*FILES)
    whole = extract(make_vit(), open_source(str(root)))
    (root / "a" / "1.png").write_bytes(b"")
    (root / "b" / "4.png").write_bytes((root / "b" / "4.png").read_bytes()[:60])
    result = extract(make_vit(), open_source(str(root)), batch=3)
    assert [entry.key for entry in result.bad] == ["a/1.png", "b/4.png"]
    assert all(entry.reason for entry in result.bad)
    kept = [index for index, key in enumerate(whole.keys) if key not in ("a/1.png", "b/4.png")]
    assert result.indices.tolist() == kept
    assert result.keys == tuple(whole.keys[index] for index in kept)
    assert result.labels is not None
    assert whole.labels is not None
    assert result.labels.tolist() == whole.labels[kept].tolist()
    numpy.testing.assert_allclose(result.vectors, whole.vectors[kept], atol=1e-5)


def test_nothing_readable_is_the_users_error(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder("a.png")
    (root / "a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"none that can be read; the first: a\.png"):
        extract(make_vit(), open_source(str(root)))


def test_broken_weights_stop_the_run(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    backbone = make_vit().train()
    backbone.cls_token.data.fill_(torch.nan)
    with pytest.raises(RunError, match="not finite"):
        extract(backbone, open_source(str(make_folder("a.png"))))
    assert backbone.training


def test_extraction_is_frozen_and_leaves_the_mode(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    source = open_source(str(make_folder(*FILES)))
    backbone = VisionTransformer(replace(make_vit().config, drop_path=0.5), seed=0).train()
    backbone.pixels = make_vit().pixels
    assert numpy.array_equal(extract(backbone, source).vectors, extract(backbone, source).vectors)
    assert backbone.training


def test_raw_pixels_pass_the_same_way() -> None:
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    backbone = RawPixels(size=8)
    torch.testing.assert_close(encode(backbone, images).cls, images.flatten(1) / 255)
    numpy.testing.assert_allclose(
        extract(backbone, in_memory(images)).vectors, images.flatten(1).numpy() / 255, atol=1e-7
    )


def test_bf16_products_change_little_and_say_how_little(
    make_vit: MakeVit, make_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    source = open_source(str(make_folder(*FILES)))
    exact, rounded = (extract(make_vit(), source, precision=precision).vectors for precision in ("fp32", "bf16"))
    assert rounded.dtype == numpy.float32
    assert not numpy.array_equal(exact, rounded)
    numpy.testing.assert_allclose(rounded, exact, atol=0.05)
    said = capsys.readouterr().err
    cosine = (unit(torch.from_numpy(exact)) * unit(torch.from_numpy(rounded))).sum(dim=1).min().item()
    assert f"cosine to fp32 at least {cosine:.6f} in" in said
    assert cosine < 0.999999


def test_equal_images_have_equal_rows_whatever_the_batch(make_folder: MakeFolder, make_vit: MakeVit) -> None:
    root = make_folder(*(f"{number}.png" for number in range(5)))
    for name in ("3.png", "4.png"):
        (root / name).write_bytes((root / "0.png").read_bytes())
    found = extract(make_vit(), open_source(str(root)), batch=2)
    for copy in (3, 4):
        assert (found.vectors[copy] == found.vectors[0]).all()
    assert not (found.vectors[1] == found.vectors[0]).all()


@dataclass(frozen=True)
class Counted:
    """The CLS token, and how many images it was computed for; the network breaks after some."""

    images: list[int] = field(default_factory=list, repr=False)
    breaks: int | None = field(default=None, repr=False)

    def __call__(self, backbone: Backbone, images: Tensor) -> Tensor:
        self.images.extend([1] * len(images))
        cls = backbone(images).cls
        return cls * torch.nan if self.breaks is not None and len(self.images) > self.breaks else cls


def computed(backbone: Backbone, root: Path, transform: Transform | None = None) -> int:
    """Extract, and return how many images were computed."""
    reading = Counted()
    extract(backbone, open_source(str(root)), reading=reading, transform=transform)
    return len(reading.images)


def test_only_what_changed_is_computed_anew(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder(*FILES, sizes=SIZES)
    assert computed(make_vit(), root) == 10
    assert computed(make_vit(), root) == 0
    (root / "a" / "0.png").rename(root / "b" / "9.png")
    assert computed(make_vit(), root) == 0  # the same file under another name
    Image.new("RGB", (16, 16), "red").save(root / "a" / "1.png")
    assert computed(make_vit(), root) == 1
    Image.new("RGB", (16, 16), "red").save(root / "a" / "2.bmp")
    assert computed(make_vit(), root) == 0  # another file of the same pixels
    assert computed(make_vit(), root, Square(8, 4)) == 10  # of 10 pictures
    assert computed(make_vit(seed=1), root) == 10


@pytest.mark.parametrize("library", ["torch", "pillow", "tifffile", "OpenEXR"])
def test_what_another_version_of_a_library_made_is_not_taken(
    library: str, make_vit: MakeVit, make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, version = make_folder(*FILES), metadata.version
    assert computed(make_vit(), root) == 10
    kept.versions.cache_clear()
    monkeypatch.setattr(metadata, "version", lambda name: "0.1" if name == library else version(name))
    assert computed(make_vit(), root) == 10
    kept.versions.cache_clear()


def test_what_white_means_belongs_to_a_file(make_vit: MakeVit, tmp_path: Path) -> None:
    for number in range(2):
        Image.fromarray(numpy.full((16, 16), 1000 * number + 500, dtype=numpy.uint16)).save(tmp_path / f"{number}.png")
    rows = [extract(make_vit(), open_source(str(tmp_path), white=white)).vectors for white in (4095, 2000)]
    assert abs(rows[0] - rows[1]).max() > 1e-3


def test_a_kill_changes_no_bit_and_costs_one_part(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder(*(f"{number:02}.png" for number in range(20)))
    (root / "17.png").write_bytes((root / "03.png").read_bytes())
    source = open_source(str(root))
    with forgotten():
        whole = extract(make_vit(), source, batch=1, reading=Counted()).vectors
    with pytest.raises(RunError, match=r"not finite, first for 18\.png"):  # in the third part of eight
        extract(make_vit(), source, batch=1, reading=Counted(breaks=17))
    after = Counted()
    assert numpy.array_equal(extract(make_vit(), source, batch=1, reading=after).vectors, whole)
    assert len(after.images) == 3  # 16, 18, 19


def test_a_broken_part_is_not_written_by_what_is_still_on_its_way(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    backbone, source, written = make_vit(), open_source(str(make_folder("0.png", "1.png"))), list[Kept]()
    work = Work(
        backbone=backbone,
        source=source,
        read=Counted(),
        transform=Square(16, 16),
        precision="fp32",
        batch_size=1,
        finished=lambda values: values.numpy(),
        save=written.append,
    )
    kept = Kept(work, Part(0, numpy.arange(2)))
    looks = ((index, work.look(index)) for index in range(2))
    assert [place for place, _ in kept.readable(looks)] == [0, 1]
    kept.store([0], torch.zeros(1, 8))
    with pytest.raises(RunError, match=r"not finite, first for 1\.png"):
        kept.store([1], torch.full((1, 8), torch.nan))
    kept.write()
    assert not written


def test_what_is_damaged_or_cannot_be_kept_is_computed(
    make_vit: MakeVit, make_folder: MakeFolder, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_folder(*FILES)
    assert computed(make_vit(), root) == 10
    (kept,) = (cache / "features").glob("*/*.npy")
    kept.write_bytes(kept.read_bytes()[:200])
    assert computed(make_vit(), root) == 10
    assert computed(make_vit(), root) == 0
    monkeypatch.setenv("DINOKIT_CACHE", "/proc/none")
    assert computed(make_vit(), root) == 10


def test_what_is_deleted_while_it_is_needed_is_one_line(
    make_vit: MakeVit, make_folder: MakeFolder, cache: Path
) -> None:
    source = open_source(str(make_folder(*FILES)))
    found = extract(make_vit(), source)
    rmtree(cache)
    with pytest.raises(RunError, match="are gone: .*; the same command computes them again"):
        found.take(numpy.array([0]))
    assert extract(make_vit(), source).vectors.shape == (10, 16)


def test_what_is_forgotten_leaves_nothing(make_vit: MakeVit, make_folder: MakeFolder, cache: Path) -> None:
    with forgotten():
        assert computed(make_vit(), make_folder(*FILES)) == 10
    assert not cache.exists()


def patches(backbone: Backbone, images: Tensor) -> Tensor:
    return backbone(images).patches


def test_rows_of_any_shape_are_read_from_the_disk(make_vit: MakeVit, make_folder: MakeFolder) -> None:
    root = make_folder(*FILES)
    (root / "b" / "4.png").write_bytes((root / "a" / "1.png").read_bytes())
    found = extract(make_vit(), open_source(str(root)), reading=patches)
    assert found.take(numpy.array([9, 0, 1])).shape == (3, 16, make_vit().dim)
    assert numpy.array_equal(found.take(numpy.array([9])), found.vectors[[1]])


def share(rank: int, root: str, port: int) -> None:
    dist.join(backend="gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    backbone, reading = VisionTransformer(ARCHITECTURE, seed=0).eval(), Counted()
    found = extract(backbone, open_source(root), reading=reading, batch=1)
    assert len(reading.images) == (8, 2)[rank]
    dist.leave()
    with forgotten():
        alone = extract(backbone, open_source(root), reading=reading, batch=1)
    assert found.keys == alone.keys
    assert numpy.array_equal(found.vectors, alone.vectors)


def test_ranks_compute_a_share_each_and_all_have_the_whole(make_folder: MakeFolder) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    on_ranks(share, str(make_folder(*FILES)), port)
