"""`dinokit look`: draw what a network sees of images: pca, similarity, attention, clusters"""

from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from PIL import Image

from dinokit import config as configuration
from dinokit.checkpoints.load import called, load
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import device as devices
from dinokit.core.files import check_writable, write_atomic
from dinokit.core.messages import BadImage, UserError, info, unknown_name, warn
from dinokit.images.decode import decode
from dinokit.looks.field import Field, Map, field
from dinokit.looks.sheet import sheet
from dinokit.models.features import Backbone
from dinokit.sources.location import is_image
from dinokit.sources.source import open_source, thinned
from dinokit.suites.columns import shown

KINDS = ("attention", "clusters", "pca", "similarity")
SHOWN = 8  # images of a source, evenly spaced


def look(
    kind: str,
    images: tuple[str, ...],
    *,
    model: tuple[str, ...],
    out: Path,
    at: tuple[str, ...] = (),
    size: int | None = None,
    count: int = SHOWN,
    heads: int | None = None,
    device: str = "auto",
    settings: Settings = NO_SETTINGS,
    **named: Any,
) -> Image.Image:
    """Draw images and what models see of them, a row per image, and write one picture.

    Args:
        kind: pca: three components as colours; similarity: cosines with marked patches, also in the other images;
            attention: from CLS, per head; clusters: groups of patches. `dinokit look KIND --help` lists its settings.
        images: files, or anything that `pretrain` takes, of which some are shown; colours mean the same in all of them.
        model: a run folder, RUN/checkpoints/STEP, a weights file, a published name, or a peer; several are beside each
            other, as the papers compare them.
        out: the picture to write, .png, .jpg or .webp.
        at: similarity: marks X,Y in pixels of the first image as it lies there, one or several words.
        size: pixels of the short side; left out 768. Larger ones are seen window by window, up to 4096.
        count: images of a source, at most, evenly spaced.
        heads: of attention, for weights that do not say it.
        device: auto, cpu, cuda or mps.
    """
    module, out = _module(kind), Path(out)
    ending = out.suffix.lower()
    if ending not in Image.registered_extensions() or out.is_dir():
        raise UserError(f"expected --out to be a picture such as {out.with_suffix('.png')}, got {out}")
    for name, value in (("size", size), ("count", count)):
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    check_writable(out.parent)
    values = {**settings, **named} | ({"at": [_mark(each) for each in at]} if at else {})
    config = configuration.override(_default(module), values)
    where, maps, fields = devices.choose(device), dict[str, Sequence[Sequence[Map]]](), list[Field]()
    for name, short in shown(map(str, (model,) if isinstance(model, str) else model)).items():
        backbone = load(name, heads=heads).to(where)
        backbone.name = called(name)
        fields = list(_fields(backbone, (images,) if isinstance(images, str) else images, size=size, count=count))
        paint = module.fit(backbone, fields, config)
        maps[short] = [paint(each) for each in fields]
    page = sheet(fields, maps)
    with write_atomic(out) as temporary:
        page.save(temporary, Image.registered_extensions()[ending])
    info(f"{len(fields)} image{'s' * (len(fields) > 1)} · {page.width} x {page.height} pixels · {out}")
    return page


def explained(words: Sequence[str]) -> tuple[str, Any] | None:
    """Return the settings of the kind that help is about."""
    return (words[0], _default(_module(words[0]))) if words and words[0] in KINDS else None


def _module(kind: str) -> ModuleType:
    if kind not in KINDS:
        raise unknown_name("look", kind, KINDS)
    return import_module(f"dinokit.looks.{kind}")


def _default(module: ModuleType) -> Any:
    return module.Config(at=()) if module.__name__.endswith("similarity") else module.Config()


def _mark(word: str) -> list[float]:
    try:
        x, y = map(float, word.split(","))
    except ValueError as error:
        raise UserError(f"--at: expected X,Y in pixels such as 120,80, got '{word}'") from error
    return [x, y]


def _fields(backbone: Backbone, images: Sequence[str], *, size: int | None, count: int) -> Iterator[Field]:
    """Look at every image; those of a source that cannot be read are passed over, with a line."""
    for word in images:
        if is_image(word) and Path(word).is_file():
            try:
                found = decode(Path(word).read_bytes(), channels=backbone.channels, white=backbone.pixels.white)
            except BadImage as error:
                raise UserError(f"{word} cannot be read: {error}") from error
            yield field(backbone, found, name=Path(word).name, size=size)
            continue
        source = thinned(open_source(word, channels=backbone.channels, white=backbone.pixels.white), count)
        for index in range(len(source)):
            try:
                found = source.read(index)
            except BadImage as error:
                warn(f"{source.key(index)} is passed over: {error}")
                continue
            yield field(backbone, found, name=source.key(index).rpartition("/")[2], size=size)
