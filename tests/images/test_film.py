"""Films come back as they were written, a frame at a time."""

import re
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.images.film import WRITTEN, Writer, frames, is_film, rotated


def picture(number: int, width: int = 50, height: int = 34) -> Image.Image:
    """Return a block of a colour on white, elsewhere in each; sides are no whole blocks of a codec."""
    values = np.full((height, width, 3), 255, dtype=np.uint8)
    values[8 : 8 + 16, 8 * number : 8 * number + 16] = (200, 40 * number, 60)
    return Image.fromarray(values)


def written(place: Path, pictures: list[Image.Image], *, lasts: float = 100) -> Path:
    with Writer(place, ending=place.suffix) as film:
        for each in pictures:
            film.add(each, lasts)
    return place


@pytest.mark.parametrize("ending", WRITTEN)
def test_what_is_written_is_read(ending: str, tmp_path: Path) -> None:
    film = written(tmp_path / f"film{ending}", [picture(number) for number in range(4)], lasts=80)
    assert is_film(film)
    found = list(frames(film))
    assert [lasts for _, lasts in found] == pytest.approx([80] * 4, abs=1)
    for number, (image, _) in enumerate(found):
        assert image.shape == (3, 34, 50)
        values = image.permute(1, 2, 0).numpy().astype(int)
        far = abs(values - np.asarray(picture(number)).astype(int))
        assert far.mean() < 3  # of 255: chroma is halved by WebP and H.264
        assert (far[:, :, 0].max() <= 1) if ending == ".gif" else True


@pytest.mark.parametrize("ending", [".gif", ".webp"])
def test_equal_pictures_are_equal_frames_and_the_file_grows_as_they_come(ending: str, tmp_path: Path) -> None:
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (33, 41, 3), dtype=np.uint8))
    place, sizes = tmp_path / f"film{ending}", list[int]()
    with Writer(place, ending=ending) as film:
        for _ in range(40):
            film.add(noisy, 50)
            sizes.append(place.stat().st_size)
    assert sizes[-1] > 5 * max(sizes[0], 4096)  # written, not held
    found = [image for image, _ in frames(place)]
    assert len(found) == 40
    assert all((one == other).all() for one, other in pairwise(found))


def test_hundredths_of_a_gif_add_up(tmp_path: Path) -> None:
    """15 frames per second are 6.67 hundredths each; 7 for all would make a second longer by a twentieth."""
    film = written(tmp_path / "film.gif", [picture(number % 3) for number in range(30)], lasts=1000 / 15)
    assert sum(lasts for _, lasts in frames(film)) == 2000


def test_few_colours_and_one_frame(tmp_path: Path) -> None:
    """A still of Pillow's has as small a table of colours as suffices."""
    film = written(tmp_path / "film.gif", [Image.new("RGB", (5, 3), "red"), Image.new("RGB", (5, 3), "white")])
    assert [image[:, 0, 0].tolist() for image, _ in frames(film)] == [[255, 0, 0], [255, 255, 255]]
    assert not is_film(written(tmp_path / "one.gif", [picture(0)]))
    assert not is_film(written(tmp_path / "one.webp", [picture(0)]))


def test_transparency_lies_on_white_and_a_gray_model_sees_luminance(tmp_path: Path) -> None:
    first, second = Image.new("RGBA", (4, 2), (0, 0, 0, 0)), Image.new("RGBA", (4, 2), (255, 0, 0, 255))
    first.save(tmp_path / "a.png", save_all=True, append_images=[second], duration=[40, 90])
    assert [(image.unique().tolist(), lasts) for image, lasts in frames(tmp_path / "a.png", channels=1)] == [
        ([255], 40),
        ([76], 90),  # ITU-R BT.601
    ]
    with pytest.raises(UserError, match="the model takes images of 4 channels; give a model of 1 or 3"):
        next(frames(tmp_path / "a.png", channels=4))


@pytest.mark.parametrize("name", ["broken.gif", "broken.mp4"])
def test_what_cannot_be_read_is_one_line(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"GIF89a" + bytes(40))
    with pytest.raises(UserError, match=f"cannot read the (animation|video) .*{name}"):
        list(frames(tmp_path / name))


@pytest.mark.parametrize(("degrees", "first"), [(0, 0), (90, 2), (-90, 3), (180, 5), (-180, 5), (-89.6, 3)])
def test_a_frame_is_turned_counter_clockwise(degrees: float, first: int) -> None:
    assert rotated(np.arange(6).reshape(2, 3, 1), degrees)[0, 0, 0] == first


@pytest.mark.parametrize(
    ("ending", "said"), [(".avi", "ends early: .* of 60 frames"), (".mkv", r"ends early: .* of 4\.0 seconds")]
)
def test_a_video_whose_end_is_missing_says_so_once(
    ending: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, cut = tmp_path / f"whole{ending}", tmp_path / f"cut{ending}"
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("mpeg4", rate=15)
        stream.width = stream.height = 64
        for number in range(60):
            values = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(values, format="rgb24")))
        container.mux(stream.encode())
    assert len(list(frames(whole))) == 60
    assert not capsys.readouterr().err
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    for _ in range(2):
        assert 10 < len(list(frames(cut))) < 40
    told = capsys.readouterr().err
    assert re.search(said, told)
    assert told.count("\n") == 1
