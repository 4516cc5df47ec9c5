"""Trained dense heads: kept on disk, and applied to every image of a source.

HEAD/head.safetensors holds the weights, HEAD/head.json all the rest: what the head is for (task), what it is (kind and
its settings), whose patches it reads (model, a digest of its weights, layers) and how images are shown to it, so that
it can be used alone with the backbone it belongs to.

OUT/predict.json says which head and which images made the pictures, OUT/written.jsonl what each image held: what is
there and still belongs to them is not computed again, so that the same command goes on after an interruption, and an
image that was replaced is seen anew. Memory holds one image, its values at the size the head sees, and those of one
window.

A task is a file of this folder that speaks for itself: HEADS, kind -> (its settings, the module); FOLDERS, each of
which receives a PNG per image; DETAILS, what `About.details` must hold; `pictures`, which draws what a head found,
and `legend`, which explains the colours; RETIRED, if it has any, the settings of old heads that are none today. One
that says no values of pixels has `found`, what its head makes of an image, `told`, that and the image as plain values
for OUT/written.jsonl, and `gathered`, which writes those of all images to OUT.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from jaxtyping import Float
from PIL.Image import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from dinokit.config import current, from_plain, to_plain
from dinokit.core.files import (
    append_jsonl,
    check_same,
    check_writable,
    digest,
    digest_of_model,
    digest_of_weights,
    only_owner,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from dinokit.core.messages import BadImage, UserError, progress, unknown_name
from dinokit.dense.maps import Windows, frozen, predictor, prepared, slide
from dinokit.images import intensity
from dinokit.models.features import Backbone
from dinokit.sources.source import Source, Unusable, absolute, open_source

WEIGHTS, ABOUT = "head.safetensors", "head.json"
MADE_BY, RECORD = "predict.json", "written.jsonl"


@dataclass(frozen=True)
class About:
    """What a head is for, whose patches it reads, and how."""

    task: str  # the evaluation that trained it
    model: str  # whose patches it reads, as the user wrote it
    digest: str  # of that model: its weights, and its heads of attention
    layers: int | tuple[int, ...] = 1  # the last so many, or their indices
    norm: bool = True  # the final norm on each of them
    short: int | None = None  # pixels; the short side of an image is resized to it, None keeps the size
    crop: int | None = None  # pixels; side of a window, None sees images whole
    stride: int = 1  # pixels; from one window to the next
    details: Mapping[str, Any] = field(default_factory=dict)  # of the task: classes and colours, the range of depths

    @classmethod
    def of(cls, backbone: Backbone, task: str, windows: Windows, **how: Any) -> "About":
        """Describe a head of a backbone that sees images by windows."""
        weights = digest_of_model(backbone)
        return cls(task, backbone.name, weights, crop=windows.crop, stride=windows.stride, **how)


def task_of(about: About) -> ModuleType:
    """Return the file of a head's task, or raise UserError."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("*.py")}
    names = [name for name, text in texts.items() if "\nHEADS = " in text]
    if about.task not in names:
        raise unknown_name("task of a head", str(about.task), names)
    return import_module(f"dinokit.dense.{about.task}")


def save_head(folder: Path, head: nn.Module, about: About) -> None:
    """Write a head of its task, with its settings as `.config`; a folder with head.json is complete."""
    kind = next(kind for kind, (_, module) in task_of(about).HEADS.items() if type(head) is module)
    (folder / ABOUT).unlink(missing_ok=True)  # the old one does not describe the new weights
    with write_atomic(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save({key: value.contiguous().cpu() for key, value in head.state_dict().items()}))
    write_json(folder / ABOUT, {"kind": kind, "config": to_plain(head.config), **to_plain(about)})


def load_head(folder: str | Path) -> tuple[nn.Module, About]:
    """Load a head, frozen and in evaluation mode, on the CPU; refuse a folder with none, or a damaged one."""
    place = Path(folder)
    missing = [name for name in (ABOUT, WEIGHTS) if not (place / name).is_file()]
    if missing:
        raise UserError(f"{folder} holds no head (no {missing[0]}); give the folder head/ that `evaluate --save` wrote")
    try:
        plain = json.loads((place / ABOUT).read_text(encoding="utf-8"))
        kind, config = plain.pop("kind"), plain.pop("config")
        layers = plain["layers"] if isinstance(plain["layers"], int) else tuple(map(int, plain["layers"]))
        about = About(**plain | {"layers": layers})
        task = task_of(about)
        heads: dict[str, tuple[type, type[nn.Module]]] = task.HEADS
        lacking = [name for name in task.DETAILS if name not in about.details]
        if lacking:
            raise KeyError(lacking[0])
        if kind not in heads:
            raise unknown_name("kind of head", str(kind), heads)
        settings, module = heads[kind]
        head = module(from_plain(settings, current(config, getattr(task, "RETIRED", {}))))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        lacks = f"it lacks {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{place / ABOUT} does not describe a head: {lacks}; train it again") from error
    try:
        head.load_state_dict(load_file(place / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place / WEIGHTS} does not fit {ABOUT}: {reason}; train the head again") from error
    if not all(value.isfinite().all() for value in head.state_dict().values()):
        raise UserError(f"{place / WEIGHTS} holds weights that are not finite; train the head again, at a lower rate")
    return head.eval().requires_grad_(False), about


def check_model(about: About, backbone: Backbone, *, model: str) -> None:
    """Refuse a backbone that a head does not belong to, by name: its numbers would mean nothing."""
    found = digest_of_model(backbone)
    if about.digest not in (found, found.split("-")[0]):  # early heads say the weights alone
        other = "settings or pixels" if about.digest.split("-")[0] == found.split("-")[0] else "weights"
        raise UserError(
            f"the head was trained on {about.model}, whose {other} are not those of {model}; give that model as --model"
        )


@dataclass(frozen=True)
class Written:
    """How a prediction went."""

    images: int  # written by this call
    there: int  # written before
    bad: tuple[Unusable, ...]


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
    """Apply a head to a source, both on one device, and save it as OUT/head if asked to; refuse a folder of another."""
    task, white = task_of(about), backbone.pixels.white
    source = open_source(data, split=split, channels=backbone.channels, white=white)
    # a person looks at the picture itself, not at what a gray model sees of it
    shown = open_source(data, split=split, channels=3, white=white) if backbone.channels == 1 else source
    stamp = {"data": absolute(data), "split": split, "weights": digest_of_weights(head), "head": to_plain(about)}
    made_by, names = digest([repr(sorted(stamp.items()))]), _names(source)
    written, there, bad, lines = 0, 0, list[Unusable](), list[dict[str, Any]]()
    check_writable(out)
    with only_owner(out), frozen(backbone):
        claim(out, stamp)
        if keep_head:
            save_head(out / "head", head, about)
        _save(task.legend(about.details), out / "legend.png")
        record = {line.get("file"): line for line in read_jsonl(out / RECORD)}
        found_in = getattr(task, "found", _slid)
        for index in progress(range(len(source)), len(source)):
            places = {folder: out / folder / names[index] for folder in task.FOLDERS}
            try:
                line = {"file": names[index], "key": source.key(index), "image": _held(source, index), "by": made_by}
                known = record.get(names[index], {})
                if known.items() >= line.items() and all(place.is_file() for place in places.values()):
                    there += 1
                    lines.append(known)
                    continue
                image = source.read(index)
                picture = image if shown is source else shown.read(index)
            except BadImage as error:
                bad.append(Unusable(index=index, key=source.key(index), reason=str(error)))
                continue
            values = found_in(backbone, head, about, image)
            line |= task.told(values, image) if hasattr(task, "told") else {}
            for folder, drawn in task.pictures(values, picture, about.details).items():
                _save(drawn, places[folder])
            append_jsonl(out / RECORD, line)
            lines.append(line)
            written += 1
        if hasattr(task, "gathered"):
            task.gathered(out, lines, about.details)
        if bad:
            write_jsonl(out / "bad_images.jsonl", [{"key": one.key, "reason": one.reason} for one in bad])
    if not written + there:
        first = f"{bad[0].key}: {bad[0].reason}"
        raise UserError(f"expected images in {data}, got none that can be read; the first: {first}")
    return Written(written, there, tuple(bad))


def _slid(backbone: Backbone, head: nn.Module, about: About, image: intensity.Image) -> Float[Tensor, "1 value _ _"]:
    """Return the values of every pixel of an image at the size that the head sees."""
    values_of = predictor(backbone, head, layers=about.layers, norm=about.norm)
    return slide(prepared(image, backbone, short=about.short), values_of, Windows(about.crop, about.stride))


def claim(out: Path, stamp: dict[str, Any]) -> None:
    """Say whose a folder of predictions is; refuse one that holds those of another head."""
    if (out / MADE_BY).exists():
        kept = read_json(out / MADE_BY)
        kept = kept | {"data": absolute(str(kept.get("data")))} if isinstance(kept, dict) else kept
        check_same(kept, stamp, place=out)
    write_json(out / MADE_BY, stamp)


def _save(picture: Image, path: Path) -> None:
    with write_atomic(path) as temporary:
        picture.save(temporary, "PNG")


def _held(source: Source, index: int) -> str:
    encoded = source.encoded(index)
    return digest([source.read(index).numpy() if encoded is None else encoded])


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
