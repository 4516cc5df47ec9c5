"""The images of a studio: those of the source, by their index, and the newest ones that somebody has dragged in.

Nothing is held of an image of the source; a picture for the list is made when it is asked for, and of such pictures a
bounded number of bytes is kept. An upload is held as its file. What is too large is refused by its header, before any
pixel is decoded.
"""

import io
import re
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import final

from PIL import Image

from dinokit.core.files import utf8
from dinokit.core.messages import BadImage
from dinokit.dense import draw
from dinokit.images import intensity
from dinokit.images.decode import decode, size_of, upright_size
from dinokit.looks.field import shown
from dinokit.sources.base import Source
from dinokit.studio.store import Kept

PAGE = 240  # images of a list, at most
BYTES, PIXELS = 32 << 20, 25_000_000  # of an upload: decoded, transparency and all, it takes half a gigabyte
UPLOADS, UPLOADED = 32, 128 << 20  # how many are kept, and their bytes together
THUMB, LONGEST = 160, 640  # pixels of the short side of a picture in the list, and of the long side at most
KEPT = 64 << 20  # bytes of pictures
NAME = 120  # letters of the name of an upload
SHARP = 256  # pixels; pictures up to this side are kept exactly


class Unknown(LookupError):
    """Something that is not there, or no longer; the message says what is."""


@final
class Images:
    """Images by what they are called in addresses; for any thread."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._kept = Kept(KEPT)
        self._uploads: OrderedDict[str, tuple[str, bytes]] = OrderedDict()  # id -> name, file
        self._passing: dict[str, tuple[str, bytes]] = {}  # of programs, until they are answered
        self._added = 0
        self._lock = Lock()

    def __len__(self) -> int:
        """Return how many images the source has."""
        return len(self.source)

    def listed(self, first: int, count: int) -> list[dict[str, str]]:
        """Return ids and names of some images of the source."""
        count = min(count, PAGE)
        return [self.about(str(index)) for index in range(max(first, 0), min(first + count, len(self)))]

    def about(self, id: str) -> dict[str, str]:
        """Return the id and the name of an image, or raise Unknown."""
        index = self.index(id)
        return {"id": id, "name": self._upload(id)[0] if index is None else utf8(self.source.key(index))}

    def index(self, id: str) -> int | None:
        """Return where an image is in the source, None of an upload, or raise Unknown."""
        if re.fullmatch("u[1-9][0-9]{0,11}", id):
            self._upload(id)
            return None
        if not re.fullmatch("0|[1-9][0-9]{0,11}", id) or int(id) >= len(self):
            raise Unknown(f"expected an image of 0 to {len(self) - 1}, or of u1 and more, got '{id[:NAME]}'")
        return int(id)

    def read(self, id: str, *, min_side: int | None = None) -> intensity.Image:
        """Decode an image; BadImage says why it cannot be, Unknown that it is not there."""
        index = self.index(id)
        if index is not None:
            return self.source.read(index, min_side=min_side)
        return self._decoded(self._upload(id)[1], min_side=min_side)

    def thumb(self, id: str) -> bytes:
        """Return a small picture of an image, a JPEG."""
        self.index(id)
        found = self._kept.get(id)
        if found is None:
            found = _thumb(self.read(id, min_side=THUMB))
            self._kept.put(id, found)
        return found

    def picture(self, id: str, *, patch_size: int, size: int) -> bytes:
        """Return what a model with such patches sees of an image, a WebP."""
        name = self.about(id)["name"]
        found = self._kept.get((id, patch_size, size))
        if found is None:
            drawn = Image.fromarray(draw.rgb(shown(self.read(id), patch_size=patch_size, name=name, size=size)))
            # method 0: a third of the time of the usual 2 or 4, for 5 % more bytes
            found = _written(drawn, "WEBP", lossless=max(drawn.size) <= SHARP, quality=88, method=0)
            self._kept.put((id, patch_size, size), found)
        return found

    def add(
        self, data: bytes, name: str, *, check: Callable[[int, int], None] | None = None, passing: bool = False
    ) -> dict[str, str]:
        """Keep an upload, and forget the oldest beyond the limits; return its id and name.

        Args:
            check: is told height and width, and raises BadImage where they do not suit.
            passing: it takes nobody's place, is in no list and stays until `drop`.

        Raises:
            BadImage: if it is no image, or has too many pixels; these are counted in its header.
        """
        width, height = size_of(data)
        if width * height > PIXELS:
            raise BadImage(f"expected at most {PIXELS:,} pixels, the header says {width} x {height}; make it smaller")
        decoded = self._decoded(data, min_side=THUMB)  # what cannot be decoded is not kept
        if check is not None:
            width, height = upright_size(data, decoded)
            check(height, width)
        thumb = None if passing else _thumb(decoded)
        name = "".join(letter for letter in name[:NAME] if letter.isprintable()) or "upload"
        with self._lock:
            self._added += 1
            id = f"u{self._added}"
            (self._passing if passing else self._uploads)[id] = name, data
            while len(self._uploads) > UPLOADS or sum(len(each) for _, each in self._uploads.values()) > UPLOADED:
                self._uploads.popitem(last=False)
        if thumb is not None:
            self._kept.put(id, thumb)
        return {"id": id, "name": name}

    def drop(self, id: str) -> bool:
        """Forget an upload that was passing; tell whether it was one."""
        with self._lock:
            return self._passing.pop(id, None) is not None

    def _decoded(self, data: bytes, *, min_side: int | None) -> intensity.Image:
        return decode(data, channels=self.source.channels, min_side=min_side, white=self.source.white)

    def _upload(self, id: str) -> tuple[str, bytes]:
        with self._lock:
            if id in self._passing:
                return self._passing[id]
            if id not in self._uploads:
                raise Unknown(f"the upload {id} is no longer kept, only the newest {UPLOADS} are; drag it in once more")
            return self._uploads[id]


def _thumb(image: intensity.Image) -> bytes:
    picture = Image.fromarray(draw.rgb(image))
    scale = min(THUMB / min(picture.size), LONGEST / max(picture.size), 1.0)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    return _written(picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0), "JPEG", quality=85)


def _written(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()
