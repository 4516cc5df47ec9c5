"""A saved head on every image of a source, written as pictures; the head's task chooses what is drawn.

What is there already is not computed again, so that the same command goes on after an interruption. Memory holds one
image, its values at the size the head sees, and those of one window.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.checkpoints.dense import About, check_model, load_head
from dinokit.checkpoints.load import load
from dinokit.config import to_plain
from dinokit.core.errors import UserError, unknown_name
from dinokit.core.files import check_writable, write_json, write_jsonl
from dinokit.core.log import progress
from dinokit.core.ownership import digest_of_weights
from dinokit.dense import draw, draw_depth
from dinokit.dense.embedding import Skipped
from dinokit.dense.maps import frozen, predictor, prepared
from dinokit.dense.windows import Windows, slide
from dinokit.images import intensity
from dinokit.models.features import Backbone
from dinokit.sources.source import BadImage, Source, open_source

ABOUT = "predict.json"


@dataclass(frozen=True)
class Writer:
    """What is written for the heads of a task."""

    folders: tuple[str, ...]  # of OUT; each receives one PNG per image
    # values as the head saw the image, the image, where each folder's PNG goes
    write: Callable[[Float[Tensor, "1 value rows columns"], intensity.Image, Mapping[str, Path], About], None]
    legend: Callable[[Path, About], None]  # explains the colours


WRITERS: dict[str, Writer] = {
    "segmentation": Writer(("masks", "overlays"), draw.classes, draw.legend_of_classes),
    "depth": Writer(("depth", "colours"), draw_depth.depths, draw_depth.legend_of_depths),
    "foreground": Writer(("probabilities", "overlays"), draw.foreground, draw.legend_of_foreground),
}


@dataclass(frozen=True)
class Written:
    """How a prediction went."""

    images: int  # written by this call
    there: int  # written before
    bad: tuple[Skipped, ...]


def predict(
    head: str | Path,
    data: str,
    out: Path,
    *,
    model: str | None = None,
    split: str | None = None,
    device: torch.device | None = None,
) -> Written:
    """Apply a saved head to a source.

    Args:
        model: whose patches the head reads; None: the one it was trained on, where it was then.

    Raises:
        UserError: if the head, its model or the images are not there or do not fit.
    """
    module, about = load_head(head)
    backbone = load(model or about.model).to(device or torch.device("cpu"))
    check_model(about, backbone, model=model or about.model)
    return apply(backbone, module.to(device or torch.device("cpu")), about, data, out, split=split)


def apply(
    backbone: Backbone, head: nn.Module, about: About, data: str, out: Path, *, split: str | None = None
) -> Written:
    """Apply a head that is in memory; both are on one device.

    Raises:
        UserError: if nothing is drawn for its task, or OUT holds the pictures of another head.
    """
    if about.task not in WRITERS:
        raise unknown_name("task of a head", about.task, WRITERS)
    writer = WRITERS[about.task]
    source = open_source(data, split=split, channels=backbone.channels)
    check_writable(out)
    _check_same(out, {"data": data, "split": split, "weights": digest_of_weights(head), "head": to_plain(about)})
    writer.legend(out / "legend.png", about)
    names, bad, written, there = _names(source), [], 0, 0
    with frozen(backbone):
        values_of = predictor(backbone, head, layers=about.layers, norm=about.norm)
        for index in progress(range(len(source)), len(source)):
            places = {folder: out / folder / names[index] for folder in writer.folders}
            if all(place.is_file() for place in places.values()):
                there += 1
                continue
            try:
                image = source.read(index)
            except BadImage as error:
                bad.append(Skipped(index=index, key=source.key(index), reason=str(error)))
                continue
            seen = prepared(image, backbone, short=about.short)
            writer.write(slide(seen, values_of, Windows(about.crop, about.stride)), image, places, about)
            written += 1
    if bad:
        write_jsonl(out / "bad_images.jsonl", [{"key": one.key, "reason": one.reason} for one in bad])
    if not written + there:
        raise UserError(
            f"expected images in {data}, got none that can be read; the first: {bad[0].key}: {bad[0].reason}"
        )
    return Written(written, there, tuple(bad))


def _check_same(out: Path, about: Mapping[str, object]) -> None:
    """Refuse a folder with the pictures of another head: half of them would stay."""
    path = out / ABOUT
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != about:
        raise UserError(f"{out} holds the pictures of another head or of other images; give --out another folder")
    write_json(path, about)


def _names(source: Source) -> list[str]:
    """Return the file of every image: its key with the ending .png, behind its own ending where two would be one."""
    keys = [_inside(source.key(index)) for index in range(len(source))]
    stems = Counter(key.with_suffix("").as_posix() for key in keys)
    single = [stems[key.with_suffix("").as_posix()] == 1 for key in keys]
    return [str(key.with_suffix(".png") if one else f"{key}.png") for key, one in zip(keys, single)]


def _inside(key: str) -> PurePosixPath:
    """Keep a key within the folder that is written to: a list may name files anywhere."""
    parts = [part for part in PurePosixPath(key.replace(":", "_")).parts if part not in ("..", "/", ".")]
    return PurePosixPath(*(parts or ["image"]))
