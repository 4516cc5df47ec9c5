"""What a detector learns from, as digests: boxes and names, and what the files of its images hold.

A stamp must be the same however a path to the data is written, so files are named below the data's folder. To digest
COCO's images is to read 19 GB: of those that are asked for, a start that goes on digests only what has another size or
time than before.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from dinokit.annotations.boxes import Boxed
from dinokit.core.files import digest, digest_of_files


def digest_of_boxes(data: Boxed) -> str:
    """Return a digest of the boxes of a split: what is learnt of them, and of which image each is."""
    parts = ((one.boxes, one.crowd | one.difficult, repr((_below(data, one.image), one.names))) for one in data.marks)
    return digest(part for three in parts for part in three)


def images(data: Boxed, indices: Iterable[int], *, before: Mapping[str, str]) -> dict[str, str]:
    """Return size, time and digest of some images of a split, by their index.

    Args:
        before: the same of an earlier start.
    """
    found = {}
    for index in indices:
        path, key = data.marks[index].image, str(index)
        about = path.stat()
        same, known = f"{about.st_size} {about.st_mtime_ns} ", before.get(key, "")
        found[key] = known if known.startswith(same) else same + digest_of_files([path])
    return found


def held(images: Mapping[str, str]) -> dict[str, str]:
    """Return the digests alone: what images hold, whenever they were written."""
    return {key: about.rpartition(" ")[2] for key, about in images.items()}


def _below(data: Boxed, image: Path) -> str:
    """Name an image below the data's folder, or, of one that lies elsewhere, by its name alone."""
    root, path = (os.path.abspath(each) for each in (os.path.expanduser(data.name), image))
    root = os.path.dirname(root) if os.path.isfile(root) else root
    return os.path.relpath(path, root) if path.startswith(root + os.sep) else image.name
