"""Where images come from: every way to write it, and the source that stands behind it.

Order, augmentation and masks never depend on the kind of source, so a new kind is one file and one line here.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from dinokit.core.messages import LISTED, BadImage, UserError
from dinokit.sources import containers, demo, files, location, mixture, published, rows, selection
from dinokit.sources.base import Source, Unusable, in_memory, labelled, thinned
from dinokit.sources.location import choose_split, folder_splits, split_folders
from dinokit.sources.table import members

__all__ = [
    "Source",
    "Unusable",
    "absolute",
    "folder_of",
    "in_memory",
    "is_gray",
    "labelled",
    "open_source",
    "remarks",
    "same_source",
    "splits",
    "thinned",
]

Opener = Callable[..., Source]  # (spec, *, split, channels): what every kind of source offers

_LARGE_FILES: dict[str, Opener] = {
    containers.TAR: containers.open_tars,
    rows.PARQUET: rows.open_parquet,
    containers.ZIP: containers.open_zips,
}
_FILES: dict[str, Opener] = {
    **_LARGE_FILES,
    ".txt": files.open_list,
    **dict.fromkeys(files.MANIFESTS, files.open_manifest),
}


def open_source(
    spec: str, *, split: str | None = None, channels: int = 3, labels: bool = True, white: float | None = None
) -> Source:
    """Open images, wherever they are.

    Args:
        spec: a folder, a pattern such as 'photos/**/*.jpg', a list .txt, a manifest .csv .tsv .jsonl .parquet, tar
            shards, a zip, hf:NAME, a URL of one of these, a mixture .yaml, a selection of curation, a published set
            such as food101:FOLDER (`published.SETS`), or demo:fashion, demo:fashion-placed, demo:emoji.
        split: None = the first of `splits(spec)`, i.e. train, or everything if there are no splits.
        channels: 1 = gray, 3 = RGB, other = as stored.
        white: what stands for 1.0 in files of more than 8 bits, as a column white of a manifest says of each.
        labels: no classes if false: folders may say something else, such as where images come from.

    Raises:
        UserError: if there is nothing to read; the message says what was looked for and where.
    """
    spec = os.path.expanduser(spec)
    if _is_mixture(spec):
        parts = mixture.read_mixture(spec)
        chosen = choose_split(spec, split, splits(spec))
        sources = [open_source(part.source, split=chosen, channels=channels) for part in parts]
        source = mixture.mixed(spec, sources, parts)
    elif selection.is_selection(spec):
        choose_split(spec, split, ())
        source = selection.open_selection(spec, channels=channels, opened=open_source)
    else:
        source = _opener(spec)(spec, split=split, channels=channels)
    source = source if white is None else replace(source, white=float(white))
    return source if labels else replace(source, classes=(), labels=None)


def splits(spec: str) -> tuple[str, ...]:
    """Return the names of the splits, the default first; empty if there are none; UserError if there is no source."""
    spec = os.path.expanduser(spec)
    if _is_mixture(spec):
        each = [splits(part.source) for part in mixture.read_mixture(spec)]
        return tuple(name for name in each[0] if all(name in known for known in each))
    if spec in demo.SPLITS:
        return demo.SPLITS[spec]  # without decoding them
    if selection.is_selection(spec):
        return ()
    opener = _opener(spec)
    if opener is published.open_published:
        return published.splits(spec)  # without reading its lists
    if opener is files.open_folder and (found := folder_splits(Path(spec))):
        return tuple(found)  # without a walk through all of it
    return opener(spec, split=None, channels=3).splits


def folder_of(spec: str, *, split: str | None = None) -> str | None:
    """Return the folder of this machine in which the keys of a source are paths; None where images are no own files.

    Images are not listed for it, so that one can be looked for without the others.

    Raises:
        UserError: if there is no such source.
    """
    spec = os.path.expanduser(spec)
    if location.is_remote(spec) or _is_mixture(spec) or selection.is_selection(spec):
        return None
    opener = _opener(spec)
    if opener is files.open_folder:
        found = folder_splits(Path(spec))
        chosen = choose_split(spec, split, tuple(found))
        return spec if chosen is None else str(found[chosen])
    if opener is files.open_several:
        return location.fixed_folder(spec)
    return location.parent(spec) if opener in (files.open_list, files.open_manifest) else None


def remarks(source: Source) -> list[str]:
    """Say what was taken for classes and what was passed over, where that is for the reader to judge."""
    several = members(source.classes)
    names, kind = (source.classes, "classes") if several is None else (several[0], "classes, several in an image")
    classes = f"{len(names)} {kind}: {', '.join(names[:LISTED])}"
    more = ", ..." if len(names) > LISTED else ""
    lost = 0 if source.labels is None else int((source.labels < 0).sum())
    without = f"; {lost:,} images have none" if lost else ""
    return [f"{classes}{more}{without}"] * bool(source.classes) + list(source.remarks)


def same_source(one: str, other: str) -> bool:
    """Tell whether two specs are ways to write the same thing, such as a relative and an absolute path."""
    return _real(one) == _real(other) if one and other else one == other


def absolute(spec: str) -> str:
    """Write a spec so that it means the same from any working directory."""
    kind = location.prefix(spec)
    path = spec.removeprefix(kind)
    if not spec or kind == demo.PREFIX or (kind == rows.HUB and not os.path.exists(os.path.expanduser(path))):
        return spec
    return kind + location.absolute(path)


def _real(spec: str) -> str:
    """Return the one way to write a spec, without links."""
    spec = absolute(spec)
    kind = location.prefix(spec)
    if kind in location.NO_PATHS or location.is_remote(spec):
        return spec.rstrip("/")
    return kind + str(Path(spec.removeprefix(kind)).resolve())


def is_gray(source: Source) -> bool:
    """Tell whether some evenly spaced images of a source of three channels are all gray; no if none is readable."""
    found = []
    some = thinned(source, 32)
    for index in range(len(some)):
        with suppress(BadImage):
            image = some.read(index, min_side=32)
            found.append(bool((image == image[:1]).all()))
    return bool(found) and all(found)


def _opener(spec: str) -> Opener:
    """Find the kind of source that a spec means."""
    if not spec:  # Path("") would be the current folder
        raise UserError("no images are given; give the path of a folder of images, or demo:fashion")
    kind = location.prefix(spec)
    if kind:
        named: dict[str, Opener] = {demo.PREFIX: demo.open_demo, rows.HUB: rows.open_hub}
        return named.get(kind, published.open_published)
    ending = location.suffix(spec)
    if location.is_pattern(spec):
        return _LARGE_FILES.get(ending, files.open_several)
    if location.is_remote(spec):
        return _FILES.get(ending) or _by_content(location.walk(spec)) or files.open_several
    if os.path.isdir(spec):
        # a look at the top is quick; the walk through a million images is left to whoever opens them
        root = Path(spec)
        tops = [root, *split_folders(root).values(), *([root / "data"] if (root / "data").is_dir() else [])]
        large = any(location.suffix(name) in _LARGE_FILES for top in tops for name in location.entries(top)[0])
        return (large and _by_content(location.walk(root))) or files.open_folder
    if not os.path.exists(spec):
        location.existing_folder(spec)  # raises
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
        if location.is_image(path):
            return None
        endings.add(location.suffix(path))
    return next((opener for ending, opener in _LARGE_FILES.items() if ending in endings), None)


def _is_mixture(spec: str) -> bool:
    return spec.endswith(mixture.SUFFIXES) and not location.prefix(spec) and not os.path.isdir(spec)
