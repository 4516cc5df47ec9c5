"""Where images come from: every way to write it, and the source that stands behind it.

Order, augmentation and masks never depend on the kind of source, so a new kind is one file and one line here.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Int64, Shaped
from torch import Tensor

from dinokit.core.errors import UserError
from dinokit.core.order import evenly
from dinokit.images import intensity
from dinokit.images.bad_image import BadImage
from dinokit.images.decode import EXTENSIONS
from dinokit.sources import datasets_hub, folders, location, manifest, mixture, parquet, shards, zipped
from dinokit.sources.base import Source, Subset, digest, labelled, thinned
from dinokit.sources.demo import demo_splits, load_demo
from dinokit.sources.files import open_folder, open_list, open_pattern, open_prefix
from dinokit.sources.splits import choose_split, folder_splits, split_folders
from dinokit.sources.table import Texts

__all__ = [
    "ArraySource",
    "BadImage",
    "Source",
    "Subset",
    "absolute",
    "is_gray",
    "labelled",
    "open_source",
    "same_source",
    "splits",
    "thinned",
]

_DEMO = "demo:"
Opener = Callable[..., Source]  # (spec, *, split, channels): what every kind of source offers

_LARGE_FILES: dict[str, Opener] = {
    shards.SUFFIX: shards.open_shards,
    parquet.SUFFIX: parquet.open_parquet,
    zipped.SUFFIX: zipped.open_zip,
}
_FILES: dict[str, Opener] = {
    **_LARGE_FILES,
    ".txt": open_list,
    **dict.fromkeys(manifest.SUFFIXES, manifest.open_manifest),
}


def open_source(spec: str, *, split: str | None = None, channels: int = 3) -> Source:
    """Open images, wherever they are.

    Args:
        spec: a folder, a pattern such as 'photos/**/*.jpg', a list .txt, a manifest .csv .tsv .jsonl .parquet, tar
            shards, a zip, hf:NAME, a URL of one of these, a mixture .yaml, or demo:fashion, demo:fashion-placed,
            demo:emoji.
        split: None = the first of `splits(spec)`, i.e. train, or everything if there are no splits.
        channels: 1 = gray, 3 = RGB, other = as stored.

    Raises:
        UserError: if there is nothing to read; the message says what was looked for and where.
    """
    if spec.startswith(_DEMO):
        return _open_demo(spec, split=split, channels=channels)
    spec = os.path.expanduser(spec)
    if _is_mixture(spec):
        parts = mixture.read_mixture(spec)
        chosen = choose_split(spec, split, splits(spec))
        sources = [open_source(place, split=chosen, channels=channels) for place in _places(spec, parts)]
        return mixture.Mixture(spec, sources, parts)
    return _opener(spec)(spec, split=split, channels=channels)


def splits(spec: str) -> tuple[str, ...]:
    """Return the names of the splits, the default first; empty if there are none.

    Raises:
        UserError: if the source does not exist.
    """
    if spec.startswith(_DEMO):
        return demo_splits(spec.removeprefix(_DEMO))
    spec = os.path.expanduser(spec)
    if _is_mixture(spec):
        each = [splits(place) for place in _places(spec, mixture.read_mixture(spec))]
        return tuple(name for name in each[0] if all(name in known for known in each))
    opener = _opener(spec)
    if opener is open_folder:
        return tuple(folder_splits(Path(spec)))
    return opener(spec, split=None, channels=3).splits


def same_source(one: str, other: str) -> bool:
    """Tell whether two specs are ways to write the same thing, such as a relative and an absolute path."""
    if not one or not other:
        return one == other
    return _resolved(one) == _resolved(other)


def absolute(spec: str) -> str:
    """Write a spec so that it means the same from any working directory."""
    prefix = datasets_hub.PREFIX if spec.startswith(datasets_hub.PREFIX) else ""
    path = spec.removeprefix(prefix)
    if not spec or spec.startswith(_DEMO) or (prefix and not os.path.exists(os.path.expanduser(path))):
        return spec
    return prefix + location.absolute(path)


def is_gray(source: Source, *, looked_at: int = 32) -> bool:
    """Tell whether some evenly spaced images of a source of three channels are all gray; no if none is readable."""
    found = []
    for index in evenly(looked_at, len(source)).tolist():
        with suppress(BadImage):
            image = source.read(index, min_side=32)
            found.append(bool((image == image[:1]).all()))
    return bool(found) and all(found)


@final
class ArraySource(Source):
    """Images of one size in memory."""

    decoded = True

    def __init__(
        self,
        images: Shaped[Tensor, "sample channel height width"],
        *,
        name: str = "array",
        keys: Sequence[str] | None = None,
        labels: Int64[np.ndarray, "sample"] | None = None,
        classes: tuple[str, ...] = (),
        domains: Shaped[np.ndarray, "sample"] | None = None,
    ) -> None:
        self.images = images
        self.name = name
        self.channels = images.shape[1]
        self.labels = labels
        self.classes = classes
        self.domains = domains
        self._keys = Texts(keys if keys is not None else map(str, range(len(images))))

    def __len__(self) -> int:
        return len(self.images)

    def key(self, index: int) -> str:
        return str(self._keys[index])

    def fingerprint(self) -> str:
        return digest(self._keys.joined, self._keys.ends)

    def encoded(self, index: int) -> None:
        del index

    def read(self, index: int, *, min_side: int | None = None) -> intensity.Image:
        del min_side  # nothing to save: the pixels are there already
        return self.images[index]


def _open_demo(spec: str, *, split: str | None, channels: int) -> Source:
    chosen = choose_split(spec, split, splits(spec))
    if channels not in (1, 3):
        raise UserError(f"{spec} has images of 1 or 3 channels, not {channels}; give 1 or 3")
    demo = load_demo(spec.removeprefix(_DEMO), split=chosen or "", channels=channels)
    return ArraySource(
        demo.images, name=spec, keys=demo.keys, labels=demo.labels, classes=demo.classes, domains=demo.domains
    )


def _opener(spec: str) -> Opener:
    """Find the kind of source that a spec means.

    Raises:
        UserError: if there is no such file or folder, or it is of no kind that can be read.
    """
    if not spec:  # Path("") would be the current folder
        raise UserError("no images are given; give the path of a folder of images, or demo:fashion")
    if spec.startswith(datasets_hub.PREFIX):
        return datasets_hub.open_hub
    ending = location.suffix(spec)
    if location.is_pattern(spec):
        return _LARGE_FILES.get(ending, open_pattern)
    if location.is_remote(spec):
        return _FILES.get(ending) or _by_content(location.walk(spec)) or open_prefix
    if os.path.isdir(spec):
        return (_may_hold_large_files(spec) and _by_content(folders.walk(Path(spec)))) or open_folder
    if not os.path.exists(spec):
        folders.existing_folder(spec)  # raises
    if ending in (".gz", ".tgz", ".bz2", ".xz"):
        raise UserError(f"{spec} is packed as a whole, so that no image in it can be read alone; unpack it to a .tar")
    if ending not in _FILES:
        raise UserError(
            f"expected images, got the file {spec}; give a folder, a pattern, or one of {' '.join(_FILES)} .yaml"
        )
    return _FILES[ending]


def _by_content(paths: Iterable[str]) -> Opener | None:
    """Choose by the files of a folder: tars, Parquet or zips count only where there is no image beside them."""
    endings = set[str]()
    for path in paths:
        if path.lower().endswith(EXTENSIONS):
            return None
        endings.add(location.suffix(path))
    return next((opener for ending, opener in _LARGE_FILES.items() if ending in endings), None)


def _may_hold_large_files(root: str) -> bool:
    """Look at the top, which is quick; the walk through a million images is left to whoever opens them."""
    tops = [Path(root), *split_folders(Path(root)).values()]
    tops += [data] if (data := Path(root, "data")).is_dir() else []
    return any(location.suffix(name) in _LARGE_FILES for top in tops for name in os.listdir(top))


def _is_mixture(spec: str) -> bool:
    return spec.endswith(mixture.SUFFIXES) and not os.path.isdir(spec)


def _places(spec: str, parts: Sequence[mixture.Part]) -> list[str]:
    """Return what the sources of a mixture are, seen from here."""
    named = (_DEMO, datasets_hub.PREFIX)
    folder = location.parent(spec)
    return [p.source if p.source.startswith(named) else location.join(folder, p.source) for p in parts]


def _resolved(spec: str) -> str:
    spec = absolute(spec)
    if spec.startswith((_DEMO, datasets_hub.PREFIX)) or location.is_remote(spec):
        return spec.rstrip("/")
    return str(Path(spec).resolve())
