"""`dinokit look`: draw what a network sees of images and clips: pca, similarity, attention, clusters, matches, ..."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from PIL import Image

from dinokit import config as configuration
from dinokit.checkpoints.load import called, load
from dinokit.checkpoints.store import RunFolder
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core import device as devices
from dinokit.core.files import check_writable, write_atomic
from dinokit.core.messages import UserError, info, library, unknown_name
from dinokit.core.order import evenly
from dinokit.curation.pool import Pool
from dinokit.features.embed import embedded, model_of
from dinokit.images.film import WRITTEN, Writer
from dinokit.images.intensity import AnyImage
from dinokit.images.picture import check_picture, write_picture
from dinokit.looks import attention, clip, evolution, matches, neighbours
from dinokit.looks.field import Field, Map, bare, field, filled
from dinokit.looks.figure import ENDINGS, save, written
from dinokit.looks.figure import figure as drawn
from dinokit.looks.given import film_among, listed, read
from dinokit.looks.sheet import Row, rows_of, sheet
from dinokit.models.features import Backbone, Picture
from dinokit.suites.columns import shown

FITTED = ("attention", "clusters", "pca", "similarity")  # looks that are fitted to images and paint any, also frames
KINDS = (*FITTED, "evolution", "matches", "neighbours")
SHELL = ("out",)  # options that only Python may leave out: there the picture is returned
SHOWN = 8  # images of a source, evenly spaced
MOVING = (".gif", ".mp4")  # what evolution is written as in time: .webp may be a picture, too
STILL = 1000  # milliseconds of a checkpoint in a film

Model = str | Path | Backbone


def look(
    kind: str,
    images: tuple[Picture, ...],
    *,
    model: tuple[Model, ...] = (),
    out: Path | None = None,
    at: tuple[Any, ...] = (),
    index: Path | None = None,
    size: int | None = None,
    count: int = SHOWN,
    figure: bool = False,
    heads: int | None = None,
    device: str = "auto",
    settings: Settings = NO_SETTINGS,
    **named: Any,
) -> Any:
    """Draw images and what models see of them, a row per image; a clip becomes a clip, in colours that do not flicker.

    In Python the picture is returned: dinokit.look("pca", image, model=backbone) needs no file at all.

    Args:
        kind: pca: three components as colours. similarity: cosines with marked patches, also in the other images.
            attention: from CLS, per head. clusters: groups of patches. matches A B: patches that belong together.
            neighbours: the nearest images of a pool, and the patches that agree. evolution RUN IMAGES: a run's
            checkpoints in columns (RUN may be --model). `dinokit look KIND --help` lists its settings.
        images: files, or anything that `pretrain` takes, of which some are shown; or one clip: a video, or an animated
            GIF, WebP or PNG. Colours mean the same in all of them. In Python also Pillow's images, arrays and tensors.
        model: a run folder, RUN/checkpoints/STEP, a weights file, a published name, or a peer; several are beside each
            other, as the papers compare them. In Python also loaded ones. neighbours knows its own.
        out: the picture to write, .png, .jpg, .webp and others; .pdf and .svg with real text (extra `look`); of a clip,
            or of evolution as one, .gif, .webp or .mp4 (extra `video`).
        at: similarity and evolution: marks X,Y in pixels of the first image as it lies there, one or several words.
        index: neighbours: the folder that `dinokit embed` wrote, whose model is taken.
        size: pixels of the short side; left out 768. Larger ones are seen window by window, up to 4096.
        count: images of a source, at most, evenly spaced.
        figure: draw with matplotlib, as .pdf and .svg are (extra `look`); in Python its Figure is returned.
        heads: of attention, for weights that do not say it.
        device: auto, cpu, cuda or mps.
    """
    module, given, models = _module(kind), listed(images), _models(model)
    if kind == "evolution" and not models:
        models, given = [str(given[0])], given[1:]
    film, out = film_among(given), None if out is None else Path(out)
    moving = film is not None or (kind == "evolution" and out is not None and out.suffix.lower() in MOVING)
    _check_words(kind, given, models, index=index, size=size, count=count)
    _check_out(out, kind, film=film, moving=moving, figure=figure)
    marks = _marks(at)
    values = {**settings, **named} | ({"at": marks} if marks else {})
    config = configuration.override(_default(module), values)
    asked = _Asked(module, given, models, config, size, count, heads, devices.choose(device))
    if film is not None:
        backbones = dict(asked.backbones())
        return _filmed(clip.painted(module, backbones, film, config, size=size), out)
    rows = _rows(asked, index, every=moving)
    if moving:
        columns = range(1, len(rows[0]))
        return _filmed((([[row[0], row[column]] for row in rows], STILL) for column in columns), out)
    return _kept(rows, out, figure=figure)


@dataclass(frozen=True)
class _Asked:
    """What is looked at, and by whom."""

    look: ModuleType
    images: Sequence[Picture]
    models: Sequence[Model]
    config: Any
    size: int | None
    count: int
    heads: int | None
    device: torch.device

    def backbones(self) -> Iterator[tuple[str, Backbone]]:
        """Open one model after the other; yield what is written above it, and itself."""
        names = [_name(each) for each in self.models]
        short, given = shown(names), set[str]()
        for name, each in zip(names, self.models, strict=True):
            word, number = short[name], 1
            while isinstance(each, Backbone) and word in given:  # several may have no name
                number += 1
                word = f"{short[name]} {number}"
            if word not in given:
                yield word, each if isinstance(each, Backbone) else self.opened(each)
            given.add(word)

    def opened(self, model: str | Path) -> Backbone:
        """Load a model onto the device."""
        backbone = load(model, heads=self.heads).to(self.device)
        backbone.name = called(model)
        return backbone

    def fields(self, backbone: Backbone) -> list[Field]:
        """Look at every image."""
        found = read(backbone, self.images, partial(self.bare, backbone), count=self.count)
        return [filled(backbone, each) for each in found]

    def bare(self, backbone: Backbone, image: AnyImage, name: str) -> Field:
        """Return an image as it will be looked at, or raise UserError if it is too large."""
        found = bare(image, patch_size=backbone.patch_size, name=name, size=self.size)
        if self.look is attention:
            attention.check(found)
        return found


def _rows(asked: _Asked, index: Path | None, *, every: bool) -> list[Row]:
    """Look, and return the rows of the sheet.

    Args:
        every: of evolution, all checkpoints.
    """
    module = asked.look
    if module is neighbours:
        return _neighbours(asked, Pool(str(index)))
    if module is evolution:
        return _evolution(asked, every=every)
    if module is matches:
        several = len(asked.models) > 1
        opened = asked.backbones()
        return [row for name, each in opened for row in matches.rows(name * several, asked.fields(each), asked.config)]
    fields, maps = list[Field](), dict[str, list[list[Map]]]()
    for name, backbone in asked.backbones():
        own = asked.fields(backbone)
        paint = module.fit(backbone, own, asked.config)
        maps[name] = [paint(each) for each in own]
        fields = fields or own  # as the first one saw them: of other patches the sides differ by a few pixels
    return rows_of(fields, maps)


def _neighbours(asked: _Asked, pool: Pool) -> list[Row]:
    backbone = model_of(pool, heads=asked.heads, device=asked.device)

    def both(image: AnyImage, name: str) -> tuple[AnyImage, Field]:
        return image, asked.bare(backbone, image, name)

    images, empty = zip(*read(backbone, asked.images, both, count=asked.count))
    found = neighbours.nearest(pool.vectors, embedded(pool, backbone, images), k=asked.config.k)
    queries = [filled(backbone, each) for each in empty]

    def look(image: AnyImage, name: str) -> Field:
        return field(backbone, image, name=name, size=asked.size)

    return neighbours.rows(pool.images(channels=backbone.channels), queries, found, look)


def _evolution(asked: _Asked, *, every: bool) -> list[Row]:
    (model,) = asked.models
    run = RunFolder(Path(os.path.expanduser(_name(model))))
    steps = [] if isinstance(model, Backbone) else run.steps()
    if len(steps) < 2:
        raise UserError(f"expected a run folder with two or more checkpoints, got {_name(model)} with {len(steps)}")
    chosen = [steps[place] for place in evenly(None if every else asked.config.columns, len(steps))]
    return evolution.rows(chosen, lambda step: asked.fields(asked.opened(run.checkpoint(step))), asked.config)


def _kept(rows: Sequence[Row], out: Path | None, *, figure: bool) -> Any:
    """Draw a sheet, write it, and return it as a picture, or as a figure."""
    ending = "" if out is None else out.suffix.lower()
    page = sheet(rows)
    plotted = drawn(rows) if figure or ending in ENDINGS else None
    if out is not None:
        if plotted is None:
            write_picture(page, out)
        else:
            with write_atomic(out) as temporary:
                save(plotted, temporary, ending=ending)
        info(f"{len(rows)} row{'s' * (len(rows) > 1)} · {page.width} x {page.height} pixels · {out}")
    return plotted if figure else page


def _filmed(pages: Iterable[tuple[list[Row], float]], out: Path | None) -> Image.Image:
    """Write a film of sheets, one by one; return the first."""
    assert out is not None
    first, number = None, 0
    with write_atomic(out) as temporary, Writer(temporary, ending=out.suffix.lower()) as film:
        for rows, lasts in pages:
            page = sheet(rows)
            first, number = first or page, number + 1
            film.add(page, lasts)
    assert first is not None
    info(f"{number} frames · {first.width} x {first.height} pixels · {out}")
    return first


def _check_words(
    kind: str, images: Sequence[Picture], models: Sequence[Model], *, index: Path | None, size: int | None, count: int
) -> None:
    """Refuse what is missing, and what would do nothing."""
    for name, value in (("size", size), ("count", count)):
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
    if (kind == "neighbours") != (index is not None):
        wanted = "needs --index E, which `dinokit embed --out E` wrote" if index is None else "takes no --index"
        raise UserError(f"{kind} {wanted}")
    if index is not None and models:
        raise UserError("neighbours takes the model that the index was made with; leave out --model")
    if index is None and not models:
        raise UserError(f"--model must be given: whose features {kind} shows")
    if kind == "evolution" and len(models) > 1:
        raise UserError(f"evolution is of one run, got {len(models)} models")
    if not images:
        raise UserError("no images are given; evolution takes RUN IMAGES")


def _check_out(out: Path | None, kind: str, *, film: Path | None, moving: bool, figure: bool) -> None:
    """Refuse a place that cannot be written, or not be what is asked for."""
    if film is not None and kind not in FITTED:
        raise UserError(f"{film} is a film, which {', '.join(FITTED)} take, not {kind}; give a picture")
    ending = "" if out is None else out.suffix.lower()
    if film is not None and ending not in WRITTEN:
        raise UserError(f"{film} is a film; expected --out to be one, {' '.join(WRITTEN)}, got {out}")
    if moving and figure:
        raise UserError("a film is no figure; leave out --figure")
    if figure or ending in ENDINGS:
        library("matplotlib.figure", extra="look")
    if moving and ending == ".mp4":
        library("av", extra="video")
    if out is None:
        return
    plotted = figure or ending in ENDINGS
    if not moving and not plotted:
        check_picture(out)
    elif out.is_dir() or (plotted and ending not in written()):
        raise UserError(f"expected --out to be a picture such as {out.with_suffix('.png')}, got {out}")
    check_writable(out.parent)


def explained(words: Sequence[str]) -> tuple[str, Any] | None:
    """Return the settings of the kind that help is about."""
    return (words[0], _default(_module(words[0]))) if words[0] in KINDS else None


def _module(kind: str) -> ModuleType:
    if kind not in KINDS:
        raise unknown_name("look", kind, KINDS)
    return import_module(f"dinokit.looks.{kind}")


def _default(module: ModuleType) -> Any:
    return module.Config(at=()) if module.__name__.endswith("similarity") else module.Config()


def _name(model: Model) -> str:
    return model.name or type(model).__name__ if isinstance(model, Backbone) else str(model)


def _models(model: Any) -> list[Model]:
    """Return one or several models as a list."""
    several = [model] if isinstance(model, Model) else [*model] if isinstance(model, Iterable) else [model]
    for each in several:
        if not isinstance(each, Model):
            raise UserError(f"--model: expected a name, a folder or a loaded model, got a {type(each).__name__}")
    return several


def _marks(at: Any) -> list[list[float]]:
    """Read marks: words X,Y, or in Python pairs of numbers, or one pair."""
    if not hasattr(at, "__len__"):
        at = [at]
    if isinstance(at, str) or (len(at) == 2 and all(isinstance(each, int | float) for each in at)):
        at = [at]
    found = []
    for mark in at:
        try:
            x, y = map(float, mark.split(",") if isinstance(mark, str) else mark)
        except (ValueError, TypeError) as error:
            raise UserError(f"--at: expected X,Y in pixels such as 120,80, got '{mark}'") from error
        found.append([x, y])
    return found
