"""Pictures for people, as files: the ending of the name says which kind."""

import io
import struct
from pathlib import Path

from PIL import Image

from dinokit.core.files import check_writable, write_atomic
from dinokit.core.messages import UserError, line_of


def check_picture(out: Path) -> None:
    """Refuse, before any work, a place where no picture can be written.

    Raises:
        UserError: if the ending is none of a picture, or it is a folder, or nothing can be written there.
    """
    if not _writes(_kind(out)) or out.is_dir():
        raise UserError(f"expected --out to be a picture such as {out.with_suffix('.png')}, got {out}")
    check_writable(out.parent)


def write_picture(page: Image.Image, out: Path) -> None:
    """Write a picture, whole or not at all.

    Raises:
        UserError: if a file of its kind cannot have so many pixels.
    """
    try:
        with write_atomic(out) as temporary:
            page.save(temporary, _kind(out))
    except (ValueError, OSError, struct.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # such as a full disk
            raise
        size = f"{page.width} x {page.height} pixels"
        raise UserError(f"{size} cannot be written to {out} ({line_of(error)}); make less, or give a .png") from error


def _writes(kind: str) -> bool:
    """Tell whether Pillow writes such files in colour; many kinds it only reads."""
    try:
        Image.new("RGB", (16, 16)).save(io.BytesIO(), kind)
    except (KeyError, OSError):
        return False
    return True


def _kind(out: Path) -> str:
    return Image.registered_extensions().get(out.suffix.lower(), "none")
