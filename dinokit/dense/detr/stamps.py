"""What a detector learns from, as a digest: it is the same however the path to the data is written."""

import os
from pathlib import Path

from dinokit.annotations.boxes import Boxed
from dinokit.core.files import digest


def digest_of_boxes(data: Boxed) -> str:
    """Return a digest of the boxes of a split: what is learnt of them, and of which image each is."""
    parts = ((one.boxes, one.crowd | one.difficult, repr((_below(data, one.image), one.names))) for one in data.marks)
    return digest(part for three in parts for part in three)


def _below(data: Boxed, image: Path) -> str:
    """Name an image below the data's folder, or, of one that lies elsewhere, by its name alone."""
    root, path = (os.path.abspath(each) for each in (Path(data.name).expanduser(), image))
    root = os.path.dirname(root) if os.path.isfile(root) else root
    return os.path.relpath(path, root) if path.startswith(root + os.sep) else image.name
