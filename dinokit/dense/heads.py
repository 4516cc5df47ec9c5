"""Trained dense heads on disk: HEAD/head.safetensors with the weights, HEAD/head.json with all the rest.

head.json says what the head is for (task), what it is (kind and its settings), whose patches it reads (model, a digest
of its weights, layers) and how images are shown to it, so that it can be used alone with the backbone it belongs to.

A task is a file of this folder that speaks for itself: HEADS, kind -> (its settings, the module); FOLDERS, each of
which receives a PNG per image; DETAILS, what `About.details` must hold; `write`, which draws what a head found;
`legend`, which explains the colours; RETIRED, if it has any, the settings of old heads that are none today.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from dinokit.config import current, from_plain, to_plain
from dinokit.core.files import write_atomic, write_json
from dinokit.core.messages import UserError, unknown_name
from dinokit.core.ownership import digest_of_model
from dinokit.dense.maps import Windows
from dinokit.models.features import Backbone

WEIGHTS, ABOUT = "head.safetensors", "head.json"


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
    """Return the file of a head's task.

    Raises:
        UserError: if there is none.
    """
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
    """Load a head, frozen and in evaluation mode, on the CPU.

    Raises:
        UserError: if the folder holds none, or a damaged one.
    """
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
    """Refuse a backbone that a head does not belong to: its numbers would mean nothing.

    Raises:
        UserError: names both models.
    """
    found = digest_of_model(backbone)
    if about.digest not in (found, found.split("-")[0]):  # early heads say the weights alone
        other = "settings or pixels" if about.digest.split("-")[0] == found.split("-")[0] else "weights"
        raise UserError(
            f"the head was trained on {about.model}, whose {other} are not those of {model}; give that model as --model"
        )
