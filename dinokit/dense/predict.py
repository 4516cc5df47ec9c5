"""A head on every image of a source, written as pictures by the file of its task.

OUT/predict.json says which head and which images made the pictures, OUT/written.jsonl what each image held: what is
there and still belongs to them is not computed again, so that the same command goes on after an interruption, and an
image that was replaced is seen anew. Memory holds one image, its values at the size the head sees, and those of one
window.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from torch import nn

from dinokit.config import to_plain
from dinokit.core.files import append_jsonl, check_writable, read_json, read_jsonl, write_json, write_jsonl
from dinokit.core.messages import UserError, progress
from dinokit.core.ownership import check_same, digest_of_weights, only_owner
from dinokit.dense.embedding import Skipped
from dinokit.dense.heads import About, save_head, task_of
from dinokit.dense.maps import Windows, frozen, predictor, prepared, slide
from dinokit.models.features import Backbone
from dinokit.sources.base import digest
from dinokit.sources.source import BadImage, Source, absolute, open_source

ABOUT, RECORD = "predict.json", "written.jsonl"


@dataclass(frozen=True)
class Written:
    """How a prediction went."""

    images: int  # written by this call
    there: int  # written before
    bad: tuple[Skipped, ...]


def apply(
    backbone: Backbone,
    head: nn.Module,
    about: About,
    data: str,
    out: Path,
    *,
    split: str | None = None,
    keep_head: bool = False,
) -> Written:
    """Apply a head to a source; both are on one device.

    Args:
        keep_head: also save the head, as OUT/head.

    Raises:
        UserError: if nothing is drawn for its task, or OUT holds the pictures of another head.
    """
    task, white = task_of(about), backbone.pixels.white
    source = open_source(data, split=split, channels=backbone.channels, white=white)
    # a person looks at the picture itself, not at what a gray model sees of it
    shown = open_source(data, split=split, channels=3, white=white) if backbone.channels == 1 else source
    stamp = {"data": absolute(data), "split": split, "weights": digest_of_weights(head), "head": to_plain(about)}
    made_by, names = digest(repr(sorted(stamp.items()))), _names(source)
    written, there, bad = 0, 0, list[Skipped]()
    check_writable(out)
    with only_owner(out), frozen(backbone):
        _claim(out, stamp)
        if keep_head:
            save_head(out / "head", head, about)
        task.legend(out / "legend.png", about)
        record = {line.get("file"): line for line in read_jsonl(out / RECORD)}
        values_of = predictor(backbone, head, layers=about.layers, norm=about.norm)
        for index in progress(range(len(source)), len(source)):
            places = {folder: out / folder / names[index] for folder in task.FOLDERS}
            try:
                line = {"file": names[index], "key": source.key(index), "image": _held(source, index), "by": made_by}
                if record.get(names[index]) == line and all(place.is_file() for place in places.values()):
                    there += 1
                    continue
                image = source.read(index)
                picture = image if shown is source else shown.read(index)
            except BadImage as error:
                bad.append(Skipped(index=index, key=source.key(index), reason=str(error)))
                continue
            seen = prepared(image, backbone, short=about.short)
            task.write(slide(seen, values_of, Windows(about.crop, about.stride)), picture, places, about)
            append_jsonl(out / RECORD, line)
            written += 1
        if bad:
            write_jsonl(out / "bad_images.jsonl", [{"key": one.key, "reason": one.reason} for one in bad])
    if not written + there:
        first = f"{bad[0].key}: {bad[0].reason}"
        raise UserError(f"expected images in {data}, got none that can be read; the first: {first}")
    return Written(written, there, tuple(bad))


def _claim(out: Path, stamp: dict[str, Any]) -> None:
    """Say whose pictures these are; refuse a folder that holds those of another head."""
    if (out / ABOUT).exists():
        kept = read_json(out / ABOUT)
        kept = kept | {"data": absolute(str(kept.get("data")))} if isinstance(kept, dict) else kept
        check_same(kept, stamp, place=out)
    write_json(out / ABOUT, stamp)


def _held(source: Source, index: int) -> str:
    encoded = source.encoded(index)
    return digest(source.read(index).numpy() if encoded is None else encoded)


def _names(source: Source) -> list[str]:
    """Return the file of every image: its key with the ending .png, behind its own ending where two would be one.

    All lie within the folder that is written to, although a list may name files anywhere, also twice.
    """
    whole, short = list[str](), list[str]()
    for index in range(len(source)):
        parts = PurePosixPath(source.key(index).replace(":", "_")).parts
        key = PurePosixPath(*([part for part in parts if part not in ("..", "/", ".")] or ["image"]))
        whole.append(f"{key}.png")
        short.append(str(key.with_suffix(".png")))
    many, taken = Counter(short), set(whole)
    names = [one if many[one] == 1 and one not in taken else full for one, full in zip(short, whole)]
    twice = Counter(names)
    return [name if twice[name] == 1 else f"{number}/{name}" for number, name in enumerate(names)]
