"""Trained dense heads on disk: HEAD/head.safetensors with the weights, HEAD/head.json with all the rest.

head.json says what the head is for (task), what it is (kind and its settings), whose patches it reads (model, a digest
of its weights, layers) and how images are shown to it, so that it can be used alone with the backbone it belongs to.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from dinokit.config import from_plain, to_plain
from dinokit.core.errors import UserError, unknown_name
from dinokit.core.files import write_atomic, write_json
from dinokit.core.ownership import digest_of_weights
from dinokit.models import dense_head, depth_head, dpt, foreground_head
from dinokit.models.features import Backbone

WEIGHTS, ABOUT = "head.safetensors", "head.json"
# kind -> (its settings, the module)
KINDS: dict[str, tuple[type, type[nn.Module]]] = {
    "linear": (dense_head.Config, dense_head.LinearHead),
    "linear-depth": (depth_head.Config, depth_head.LinearDepth),
    "dpt": (dpt.Config, dpt.DPT),
    "foreground": (foreground_head.Config, foreground_head.ForegroundHead),
}


@dataclass(frozen=True)
class About:
    """What a head is for, whose patches it reads, and how."""

    task: str  # the evaluation that trained it
    model: str  # whose patches it reads, as the user wrote it
    digest: str  # of that model's weights
    layers: int | tuple[int, ...] = 1  # the last so many, or their indices
    norm: bool = True  # the final norm on each of them
    short: int | None = None  # pixels; the short side of an image is resized to it, None keeps the size
    crop: int | None = None  # pixels; side of a window, None sees images whole
    stride: int = 1  # pixels; from one window to the next
    details: Mapping[str, Any] = field(default_factory=dict)  # of the task: classes and colours, the range of depths


def save_head(folder: Path, head: nn.Module, about: About) -> None:
    """Write a head; a folder with head.json is complete.

    Args:
        head: of one of `KINDS`, with its settings as `.config`.
    """
    name = next(name for name, (_, module) in KINDS.items() if type(head) is module)
    folder.mkdir(parents=True, exist_ok=True)
    with write_atomic(folder / WEIGHTS) as temporary:
        save_file({key: value.contiguous().cpu() for key, value in head.state_dict().items()}, temporary)
    write_json(folder / ABOUT, {"kind": name, "config": to_plain(head.config), **to_plain(about)})


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
        layers = plain["layers"]
        about = About(**plain | {"layers": layers if isinstance(layers, int) else tuple(layers)})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place / ABOUT} does not describe a head: {error}; train it again") from error
    if kind not in KINDS:
        raise unknown_name("kind of head", kind, KINDS)
    settings, module = KINDS[kind]
    head = module(from_plain(settings, config))
    try:
        head.load_state_dict(load_file(place / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place / WEIGHTS} does not fit {ABOUT}: {reason}; train the head again") from error
    return head.eval().requires_grad_(False), about


def check_model(about: About, backbone: Backbone, *, model: str) -> None:
    """Refuse a backbone that a head does not belong to: its numbers would mean nothing.

    Raises:
        UserError: names both models.
    """
    if digest_of_weights(backbone) != about.digest:
        raise UserError(
            f"the head was trained on {about.model}, whose weights are not those of {model}; give that model as --model"
        )
