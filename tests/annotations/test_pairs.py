import json
from pathlib import Path

import numpy
import pytest
from PIL import Image

from dinokit.annotations.depths import open_depths
from dinokit.annotations.masks import palette
from dinokit.annotations.pairs import open_pairs, pair_splits
from dinokit.core.messages import UserError
from tests.images.hostile import deep_png

VALUES = numpy.array([[0, 1, 2], [2, 255, 1]], dtype=numpy.uint8)


def write(root: Path, image: str, mask: str, values: numpy.ndarray = VALUES, *, mode: str = "L") -> None:
    for name in (image, mask):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", values.shape[1::-1], (10, 20, 30)).save(root / image)
    found = Image.fromarray(values, mode="RGB") if values.ndim == 3 else Image.fromarray(values)
    if mode == "P":
        found.putpalette([channel for colour in palette(256) for channel in colour])
    found.save(root / mask)


@pytest.mark.parametrize("mode", ["L", "P"])
def test_gray_and_paletted_values_are_classes_and_255_is_ignored(tmp_path: Path, mode: str) -> None:
    write(tmp_path, "images/a/1.jpg", "masks/a/1.png", mode=mode)
    pairs = open_pairs(str(tmp_path))
    image, mask = pairs.read(0)
    assert image.shape == (3, 2, 3)
    assert (mask == VALUES).all()
    assert pairs.meaning.classes == ("0", "1", "2")
    assert pairs.images == (tmp_path / "images/a/1.jpg",)


def test_colours_are_classes_in_all_splits_alike(tmp_path: Path) -> None:
    red, blue, white = (200, 0, 0), (0, 0, 200), (255, 255, 255)
    write(tmp_path, "train/images/1.png", "train/masks/1.png", numpy.array([[blue, red]], dtype=numpy.uint8))
    write(tmp_path, "val/images/2.png", "val/masks/2.png", numpy.array([[white, white]], dtype=numpy.uint8))
    assert pair_splits(str(tmp_path)) == ("train", "val")
    assert open_pairs(str(tmp_path)).read(0)[1].tolist() == [[0, 1]]
    assert open_pairs(str(tmp_path), split="val").read(0)[1].tolist() == [[2, 2]]
    (tmp_path / "classes.json").write_text(json.dumps({"ship": red, "sea": blue}))
    pairs = open_pairs(str(tmp_path))
    assert pairs.meaning.classes == ("ship", "sea")
    assert pairs.read(0)[1].tolist() == [[1, 0]]
    with pytest.raises(UserError, match=r"masks/2.png holds #ffffff, which is none of the 2 classes"):
        open_pairs(str(tmp_path), split="val").read(0)


def test_black_and_white_is_background_and_foreground(tmp_path: Path) -> None:
    write(tmp_path, "images/1.png", "masks/1.png", numpy.array([[0, 255]], dtype=numpy.uint8))
    pairs = open_pairs(str(tmp_path))
    assert pairs.meaning.classes == ("background", "foreground")
    assert pairs.read(0)[1].tolist() == [[0, 1]]


def test_names_come_from_classes_txt(tmp_path: Path) -> None:
    write(tmp_path, "images/1.png", "masks/1.png")
    (tmp_path / "classes.txt").write_text("sky\nsea\nsand\nship\n")
    assert open_pairs(str(tmp_path)).meaning.classes == ("sky", "sea", "sand", "ship")


def test_an_alpha_channel_is_a_mask_and_what_it_hides_is_still_seen(tmp_path: Path) -> None:
    pixels = numpy.array([[[9, 8, 7, 0], [6, 5, 4, 255]]], dtype=numpy.uint8)
    Image.fromarray(pixels, mode="RGBA").save(tmp_path / "1.png")
    image, mask = open_pairs(str(tmp_path)).read(0)
    assert image[:, 0].T.tolist() == [[9, 8, 7], [6, 5, 4]]
    assert mask.tolist() == [[0, 1]]


def test_ade20k(tmp_path: Path) -> None:
    values = numpy.array([[0, 1, 150]], dtype=numpy.uint8)
    write(tmp_path, "images/training/a.jpg", "annotations/training/a.png", values)
    pairs = open_pairs(str(tmp_path))
    assert pairs.read(0)[1].tolist() == [[255, 0, 149]]
    assert len(pairs.meaning.classes) == 150
    with pytest.raises(UserError, match="unknown split .*'val'; known are: train"):
        open_pairs(str(tmp_path), split="val")


def test_cityscapes_of_either_kind_of_ids(tmp_path: Path) -> None:
    values = numpy.array([[0, 7, 33, 255]], dtype=numpy.uint8)
    write(tmp_path, "leftImg8bit/val/x/x_1_leftImg8bit.png", "gtFine/val/x/x_1_gtFine_labelIds.png", values)
    assert open_pairs(str(tmp_path), split="val").read(0)[1].tolist() == [[255, 0, 18, 255]]
    ready = numpy.array([[0, 7, 18, 255]], dtype=numpy.uint8)
    write(tmp_path, "leftImg8bit/val/x/x_1_leftImg8bit.png", "gtFine/val/x/x_1_gtFine_labelTrainIds.png", ready)
    assert (open_pairs(str(tmp_path), split="val").read(0)[1] == ready).all()


def test_voc(tmp_path: Path) -> None:
    write(tmp_path, "JPEGImages/b.jpg", "SegmentationClass/b.png", mode="P")
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("b\n")
    pairs = open_pairs(str(tmp_path), split="val")
    assert (pairs.read(0)[1] == VALUES).all()
    assert pairs.meaning.classes[20] == "tvmonitor"
    assert pairs.meaning.colours[15] == (192, 128, 128)  # person, in the official figures
    with pytest.raises(UserError, match=r"unknown split .*'train'; known are: val"):
        open_pairs(str(tmp_path), split="train")
    (lists / "val.txt").write_text("b\nc\n")
    with pytest.raises(UserError, match=r"expected the image .*JPEGImages/c.jpg"):
        open_pairs(str(tmp_path), split="val")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected pairs in .* ADE20K, Cityscapes, Pascal VOC; found none"):
        open_pairs(str(tmp_path))
    write(tmp_path, "images/1.png", "masks/1.png")
    write(tmp_path, "images/2.png", "masks/3.png")
    with pytest.raises(UserError, match=r"expected the mask .*masks/2.png of .*images/2.png"):
        open_pairs(str(tmp_path))
    (tmp_path / "images" / "2.png").unlink()
    with pytest.raises(UserError, match=r"expected an image .*images/3 of the mask .*masks/3.png"):
        open_pairs(str(tmp_path))
    (tmp_path / "masks" / "3.png").unlink()
    Image.new("L", (5, 5)).save(tmp_path / "masks" / "1.png")
    with pytest.raises(UserError, match="must be of one size, got 3 x 2 and 5 x 5"):
        open_pairs(str(tmp_path)).read(0)
    with pytest.raises(UserError, match="has no splits, got split 'val'"):
        open_pairs(str(tmp_path), split="val")


def test_splits_go_by_every_name_and_pairs_by_numbers(tmp_path: Path) -> None:
    for name in ("frame_10", "frame_2", "frame_1"):
        write(tmp_path, f"Training/images/{name}.png", f"Training/masks/{name}.png")
    write(tmp_path, "valid/images/1.JPG", "valid/masks/1.png")
    assert pair_splits(str(tmp_path)) == ("train", "val")
    assert [path.stem for path in open_pairs(str(tmp_path)).images] == ["frame_1", "frame_2", "frame_10"]
    assert open_pairs(str(tmp_path), split="validation").images == (tmp_path / "valid/images/1.JPG",)
    write(tmp_path / "inner", "images/dev/1.png", "masks/val/1.png")  # each by its own name
    assert len(open_pairs(str(tmp_path / "inner"))) == 1


def test_two_files_of_one_name_are_said(tmp_path: Path) -> None:
    write(tmp_path, "images/1.png", "masks/1.png")
    write(tmp_path, "images/1.jpg", "masks/1.png")
    with pytest.raises(UserError, match=r"1.jpg and .*1.png have one name; keep one"):
        open_pairs(str(tmp_path))
    (tmp_path / "images" / "1.jpg").unlink()
    Image.new("L", (3, 2)).save(tmp_path / "masks" / "1.tif")
    with pytest.raises(UserError, match=r"1.png and .*1.tif have one name; keep one"):
        open_pairs(str(tmp_path))


def test_a_picture_without_alpha_among_cut_outs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGBA", (2, 2)).save(tmp_path / "1.png")
    Image.new("RGB", (2, 2)).save(tmp_path / "2.png")
    numpy.save(tmp_path / "3.npy", VALUES)
    assert len(open_pairs(str(tmp_path))) == 1
    assert "2 images in" in (said := capsys.readouterr().err)
    assert "2.png" in said


def test_a_look_at_all_finds_what_training_would_stumble_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        write(tmp_path, f"images/{number}.png", f"masks/{number}.png")
    pairs = open_pairs(str(tmp_path))
    pairs.check(range(3))
    Image.new("L", (3, 2), 255).save(tmp_path / "masks" / "1.png")
    pairs.check(range(3))
    assert "1 of 3 have no pixel that counts" in capsys.readouterr().err
    with pytest.raises(UserError, match="no pixel of the masks of .* counts: all are 255"):
        pairs.check([1])
    (tmp_path / "images" / "2.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="cannot read the image .*2.png"):
        pairs.check(range(3))


def test_a_mask_of_a_picture_that_lies_says_why_it_does_not_fit(tmp_path: Path) -> None:
    write(tmp_path, "images/1.jpg", "masks/1.png")
    exif = Image.Exif()
    exif[274] = 6
    Image.new("RGB", (3, 2)).save(tmp_path / "images" / "1.jpg", exif=exif)
    with pytest.raises(UserError, match="got 2 x 3 and 3 x 2 pixels; the image is shown as its EXIF orientation says"):
        open_pairs(str(tmp_path)).read(0)


def test_white_of_deeper_images_is_what_the_model_says(tmp_path: Path) -> None:
    for name, value in (("images", 4095), ("depth", 1000)):
        (tmp_path / name).mkdir()
        Image.fromarray(numpy.full(VALUES.shape, value, dtype=numpy.uint16)).save(tmp_path / name / "1.png")
    image, metres = open_depths(str(tmp_path), channels=1, white=4095).read(0)
    assert (image.unique().tolist(), metres.max()) == ([1], 1)  # a depth has no white
    (tmp_path / "masks").mkdir()
    Image.fromarray(VALUES).save(tmp_path / "masks/1.png")
    assert open_pairs(str(tmp_path), channels=1, white=4095).read(0)[0].unique().tolist() == [1]


def test_a_deep_cut_out_has_the_white_of_the_model_and_keeps_what_it_hides(tmp_path: Path) -> None:
    pixels = numpy.array([[[4095, 4095, 4095, 65535], [4095, 0, 4095, 0]]], dtype=numpy.uint16)
    (tmp_path / "1.png").write_bytes(deep_png(pixels))
    image, mask = open_pairs(str(tmp_path), white=4095).read(0)
    assert (image.flatten(1).T.tolist(), mask.tolist()) == ([[1, 1, 1], [1, 0, 1]], [[1, 0]])
