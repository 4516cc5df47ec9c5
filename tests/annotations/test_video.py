"""Videos in every layout, and one line for everything that is missing."""

import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFilter

from dinokit.annotations.video import open_clips
from dinokit.core.messages import UserError


def frame(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 12, 3), value, dtype=np.uint8)).save(path)


def mask(path: Path, *, palette: bool = True) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros((8, 12), dtype=np.uint8)
    values[2:5, 3:7], values[0, 0] = 2, 255
    image = Image.fromarray(values)
    if palette:
        image = Image.fromarray(values, mode="P")
        image.putpalette([value for number in range(256) for value in (number, 255 - number, 7)])
    image.save(path)


def davis(root: Path) -> Path:
    for name in ("bear", "dog", "unlisted"):
        for number in range(3):
            frame(root / "JPEGImages" / "480p" / name / f"{number:05d}.jpg", number)
            mask(root / "Annotations" / "480p" / name / f"{number:05d}.png")
    lists = root / "ImageSets" / "2017"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("dog\nbear\n")
    return root


def test_davis_lists_choose_the_videos(tmp_path: Path) -> None:
    clips = open_clips(str(davis(tmp_path))).each
    assert [clip.name for clip in clips] == ["dog", "bear"]
    assert [name for name, _ in clips[0].read()] == ["00000", "00001", "00002"]
    with pytest.raises(UserError, match="split 'vall'.*'val'"):
        open_clips(str(tmp_path), split="vall")


def test_a_picture_beside_a_set_does_not_make_it_a_video(tmp_path: Path) -> None:
    frame(davis(tmp_path) / "preview.jpg")
    assert len(open_clips(str(tmp_path)).each) == 2


def test_masks_are_numbers_of_objects_whatever_their_palette(tmp_path: Path) -> None:
    (clip, _) = open_clips(str(davis(tmp_path))).each
    found = clip.mask("00001")
    assert found.dtype == np.uint8
    assert set(np.unique(found).tolist()) == {0, 2}  # 255 is none
    assert (found == 2).sum() == 12


def test_youtube_and_mose_have_masks_of_some_frames(tmp_path: Path) -> None:
    for number in range(6):
        frame(tmp_path / "train" / "JPEGImages" / "0a" / f"{number:05d}.jpg")
    for number in (0, 5):
        mask(tmp_path / "train" / "Annotations" / "0a" / f"{number:05d}.png", palette=False)
    (clip,) = open_clips(str(tmp_path)).each
    assert len(clip.frames) == 6
    assert sorted(clip.masks) == ["00000", "00005"]


def test_a_folder_of_frames_is_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    for number in (1, 2, 10):
        frame(tmp_path / "frames" / f"{number}.png", number)
    mask(tmp_path / "first.png")
    (clip,) = open_clips(str(tmp_path / "frames"), mask=str(tmp_path / "first.png")).each
    assert [int(image.max()) for _, image in clip.read()] == [1, 2, 10]
    assert list(clip.masks) == ["1"]


def test_frames_may_be_of_a_depth_whose_white_must_be_said(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    tifffile.imwrite(tmp_path / "frames" / "1.tif", np.full((8, 12), 500, np.uint32))
    mask(tmp_path / "mask.png")
    (clip,) = open_clips(str(tmp_path / "frames"), mask=str(tmp_path / "mask.png")).each
    assert [image.max().item() for _, image in clip.read(white=1000)] == [0.5]


def test_frames_may_have_any_number_of_channels(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    np.save(tmp_path / "frames" / "1.npy", np.full((8, 12, 4), 4095, dtype=np.int32))
    mask(tmp_path / "first.png")
    (clip,) = open_clips(str(tmp_path / "frames"), mask=str(tmp_path / "first.png")).each
    assert [image.unique().tolist() for _, image in clip.read(4, 4095)] == [[1]]


def test_a_video_file_is_decoded_frame_by_frame(tmp_path: Path) -> None:
    film(tmp_path / "clip.mp4", [np.full((16, 32, 3), 40 * number, dtype=np.uint8) for number in range(5)])
    mask(tmp_path / "first.png")
    (clip,) = open_clips(str(tmp_path / "clip.mp4"), mask=str(tmp_path / "first.png")).each
    read = list(clip.read())
    assert [name for name, _ in read] == [f"{number:05d}" for number in range(5)]
    assert [image.shape for _, image in read] == [(3, 16, 32)] * 5
    assert [float(image.float().mean()) for _, image in read] == pytest.approx([0, 40, 80, 120, 160], abs=4)


def film(path: Path, pictures: list[np.ndarray]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_a_video_of_a_telephone_stands_upright(tmp_path: Path) -> None:
    picture = np.zeros((16, 32, 3), dtype=np.uint8)
    picture[:, :16] = 255  # the left half; turned by 90 degrees clockwise it is the upper half
    film(tmp_path / "clip.mp4", [picture] * 2)
    data = (tmp_path / "clip.mp4").read_bytes()
    unit, one = (number.to_bytes(4, "big") for number in (1 << 30, 1 << 16))
    zero, minus = bytes(4), (-(1 << 16)).to_bytes(4, "big", signed=True)
    place = data.index(b"tkhd")
    level = (one, zero, zero, zero, one, zero, zero, zero, unit)
    turned = (zero, one, zero, minus, zero, zero, zero, zero, unit)
    head = data[place:].replace(b"".join(level), b"".join(turned), 1)
    (tmp_path / "clip.mp4").write_bytes(data[:place] + head)
    Image.fromarray(np.pad(np.full((8, 16), 255, dtype=np.uint8), ((0, 24), (0, 0)))).save(tmp_path / "m.png")
    (clip,) = open_clips(str(tmp_path / "clip.mp4"), mask=str(tmp_path / "m.png")).each
    for channels in (3, 1):
        shown = [image for _, image in clip.read(channels)]
        assert [image.shape for image in shown] == [(channels, 32, 16)] * 2
        assert shown[0][:, :15].float().mean() > 240
        assert shown[0][:, 17:].float().mean() < 15


@pytest.mark.parametrize("names", [["frame_2", "frame_10", "frame_1"], ["f10000", "f9999", "f10001"]])
def test_frames_are_in_the_order_of_their_numbers(names: list[str], tmp_path: Path) -> None:
    for name in names:
        frame(tmp_path / "frames" / f"{name}.png")
    mask(tmp_path / "first.png")
    (clip,) = open_clips(str(tmp_path / "frames"), mask=str(tmp_path / "first.png")).each
    expected = sorted(names, key=lambda name: int(name.strip("frame_")))
    assert [name for name, _ in clip.read()] == expected
    assert list(clip.masks) == expected[:1]


@pytest.mark.parametrize("kind", ["hard", "soft", "soft 100", "1 bit", "jpeg"])
def test_black_and_white_is_one_object(kind: str, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (36, 24)).save(tmp_path / "frames" / "0.png")
    values = np.zeros((24, 36), dtype=np.uint8)
    values[6:18, 9:27] = 100 if kind == "soft 100" else 255
    picture = Image.fromarray(values if kind != "1 bit" else values > 0)
    if "soft" in kind:
        picture = picture.filter(ImageFilter.GaussianBlur(0.5))
    picture.save(tmp_path / "m.png", "JPEG" if kind == "jpeg" else "PNG")
    (clip,) = open_clips(str(tmp_path / "frames"), mask=str(tmp_path / "m.png")).each
    assert list(clip.starts) == [1]
    assert ((clip.mask("0") == 1) != (values > 0)).mean() < 0.1


def test_objects_start_where_a_mask_first_shows_them(tmp_path: Path) -> None:
    for number in range(4):
        frame(tmp_path / "JPEGImages" / "v" / f"{number:05d}.jpg")
        values = np.zeros((8, 12), dtype=np.uint8)
        values[0] = 255  # counts as none
        values[1] = 3 if number else 0
        values[2] = 7 if number > 1 else 0
        (tmp_path / "Annotations" / "v").mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(tmp_path / "Annotations" / "v" / f"{number:05d}.png")
    opened = open_clips(str(tmp_path))
    assert opened.each[0].starts == {3: "00001", 7: "00002"}
    assert opened.scored
    assert not opened.mose2


def test_masks_of_starts_alone_cannot_be_scored(tmp_path: Path) -> None:
    for number in range(4):
        frame(tmp_path / "valid" / "JPEGImages" / "v" / f"{number:05d}.jpg")
    for number, values in ((0, 1), (2, 2)):
        (tmp_path / "valid" / "Annotations" / "v").mkdir(parents=True, exist_ok=True)
        path = tmp_path / "valid" / "Annotations" / "v" / f"{number:05d}.png"
        Image.fromarray(np.diag([values] * 8 + [0] * 4)[:8].astype(np.uint8)).save(path)
    opened = open_clips(str(tmp_path), split="valid")
    assert (opened.scored, opened.each[0].starts) == (False, {1: "00000", 2: "00002"})


def test_the_second_mose_is_known_by_its_layout(tmp_path: Path) -> None:
    shutil.copytree(davis(tmp_path / "davis") / "JPEGImages" / "480p", tmp_path / "mose" / "train" / "JPEGImages")
    shutil.copytree(tmp_path / "davis" / "Annotations" / "480p", tmp_path / "mose" / "train" / "Annotations")
    assert not open_clips(str(tmp_path / "mose")).mose2
    (tmp_path / "mose" / "meta_train.json").write_text('{"videos": {"v": {"objects": {"1": {}}}}}')
    assert not open_clips(str(tmp_path / "mose")).mose2
    about = '{"videos": {"v": {"objects": ["1"], "length": 3, "height": 8, "width": 12}}}'
    (tmp_path / "mose" / "meta_train.json").write_text(about)
    assert open_clips(str(tmp_path / "mose")).mose2
    (tmp_path / "mose" / "meta_train.json").unlink()
    (tmp_path / "mose").rename(tmp_path / "MOSE_v2")
    assert open_clips(str(tmp_path / "MOSE_v2")).mose2


def test_masks_that_cannot_be_are_said_before_anything_is_tracked(tmp_path: Path) -> None:
    path = davis(tmp_path) / "Annotations" / "480p" / "dog" / "00001.png"
    many = np.full((8, 12), 300, dtype=np.uint16)
    for picture, said in (
        (Image.fromarray(many), "holds the object 300; expected numbers up to 254"),
        (Image.new("RGB", (12, 8), (1, 2, 3)), "holds colours; expected a number in every pixel"),
        (Image.new("L", (5, 5)), "must be of one size, got 12 x 8 and 5 x 5"),
    ):
        picture.save(path)
        with pytest.raises(UserError, match=said):
            open_clips(str(tmp_path))


def broken(root: Path, how: str) -> tuple[str, str | None]:
    davis(root / "davis")
    if how == "nothing":
        return str(root / "absent"), None
    if how == "frames without a mask":
        return str(root / "davis" / "JPEGImages" / "480p" / "dog"), None
    if how == "mask that is not there":
        return str(root / "davis" / "JPEGImages" / "480p" / "dog"), str(root / "no.png")
    if how == "no annotations":
        shutil.rmtree(root / "davis" / "Annotations" / "480p")
    if how == "no frames":
        shutil.rmtree(root / "davis" / "JPEGImages" / "480p" / "dog")
    if how == "no masks of a video":
        shutil.rmtree(root / "davis" / "Annotations" / "480p" / "dog")
    if how == "another folder":
        shutil.rmtree(root / "davis" / "JPEGImages")
    if how == "text":
        (root / "clip.txt").write_text("no video")
        mask(root / "m.png")
        return str(root / "clip.txt"), str(root / "m.png")
    if how == "no video":
        (root / "clip.mp4").write_bytes(b"no video")
        mask(root / "m.png")
        return str(root / "clip.mp4"), str(root / "m.png")
    return str(root / "davis"), None


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("nothing", "does not exist"),
        ("frames without a mask", "needs a mask of its first frame; add --mask"),
        ("mask that is not there", "no.png does not exist"),
        ("no annotations", "Annotations/480p is missing"),
        ("no frames", "dog holds no frames"),
        ("no masks of a video", "holds no mask of a frame"),
        ("another folder", "expected frames, or JPEGImages/ with Annotations/"),
        ("text", "expected a video .mp4"),
        ("no video", "cannot read the video"),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path: Path, how: str, said: str) -> None:
    spec, first = broken(tmp_path, how)
    with pytest.raises(UserError, match=said) as caught:
        for clip in open_clips(spec, mask=first).each:
            list(clip.read())
    assert "\n" not in str(caught.value)
