"""Pictures for people, as files: the ending of the name says which kind."""

from pathlib import Path

from PIL import Image

from dinokit.core.files import check_writable, write_atomic
from dinokit.core.messages import UserError


def check_picture(out: Path) -> None:
    """Refuse, before any work, a place where no picture can be written.

    Raises:
        UserError: if the ending is none of a picture, or it is a folder, or nothing can be written there.
    """
    if _kind(out) not in Image.SAVE or out.is_dir():
        raise UserError(f"expected --out to be a picture such as {out.with_suffix('.png')}, got {out}")
    check_writable(out.parent)


def write_picture(page: Image.Image, out: Path) -> None:
    """Write a picture, whole or not at all."""
    with write_atomic(out) as temporary:
        page.save(temporary, _kind(out))


def _kind(out: Path) -> str:
    return Image.registered_extensions().get(out.suffix.lower(), "")
