"""Videos in every layout, and one line for everything that is missing."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinokit.annotations.video import open_clips
from dinokit.core.errors import UserError


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


def test_a_video_file_is_decoded_frame_by_frame(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for number in range(5):
            picture = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 40 * number, dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    mask(tmp_path / "first.png")
    (clip,) = open_clips(str(tmp_path / "clip.mp4"), mask=str(tmp_path / "first.png")).each
    read = list(clip.read())
    assert [name for name, _ in read] == [f"{number:05d}" for number in range(5)]
    assert [image.shape for _, image in read] == [(3, 16, 32)] * 5
    assert [float(image.float().mean()) for _, image in read] == pytest.approx([0, 40, 80, 120, 160], abs=4)


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
