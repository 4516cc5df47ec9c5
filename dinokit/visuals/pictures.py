"""Images inside a page: small `data:` URIs, so that one HTML file is the whole report."""

import base64
import io

from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

LOSSLESS = 64  # pixels; up to this side a picture stays PNG, shown with hard pixel edges


def data_uri(picture: UInt8[Tensor, "height width channel"], *, side: int = 160) -> str:
    """Encode a picture, shrunk so that its long side is at most `side` pixels.

    Small pictures are PNG; larger ones PNG or JPEG, whichever is smaller: photos would otherwise fill the page.
    """
    image = _image(picture)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    png = _encoded(image, "PNG", optimize=True)
    if max(image.size) <= LOSSLESS:
        return _uri("png", png)
    jpeg = _encoded(image, "JPEG", quality=86)
    return _uri("png", png) if len(png) <= len(jpeg) else _uri("jpeg", jpeg)


def _image(picture: UInt8[Tensor, "height width channel"]) -> Image.Image:
    # gray stays gray; of any other number of channels the first three are shown, of two the first
    channels = 3 if picture.shape[2] >= 3 else 1
    array = picture[:, :, :channels].numpy()
    return Image.fromarray(array if channels == 3 else array[:, :, 0])


def _encoded(image: Image.Image, kind: str, **options: int | bool) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
