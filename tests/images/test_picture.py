"""What no file can hold is refused in a line, before the work where the ending tells it."""

from pathlib import Path

import pytest
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.images.picture import check_picture, write_picture


@pytest.mark.parametrize("name", ["x.png", "x.JPG", "x.webp", "x.gif", "x.tiff", "x.bmp"])
def test_what_is_allowed_can_be_written(name: str, tmp_path: Path) -> None:
    check_picture(tmp_path / name)
    write_picture(Image.new("RGB", (3, 2)), tmp_path / name)
    with Image.open(tmp_path / name) as page:
        assert page.size == (3, 2)


@pytest.mark.parametrize("name", ["x.psd", "x.mpg", "x.h5", "x.xbm", "x.xyz", "x", "folder.png"])
def test_endings_that_are_only_read_are_refused_before_the_work(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=f"expected --out to be a picture such as .*png, got .*{name}"):
        check_picture(tmp_path / name)


@pytest.mark.parametrize("name", ["x.webp", "x.jpg", "x.gif"])
def test_too_many_pixels_for_a_kind_of_file_are_a_line_and_no_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"70000 x 1 pixels cannot be written to .*{name} .*; make less"):
        write_picture(Image.new("RGB", (70_000, 1)), tmp_path / name)
    assert not list(tmp_path.iterdir())
