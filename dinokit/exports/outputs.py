"""What an exported network takes and returns, and what its file says of it.

    images [batch, channel, height, width] float32, normalised -> cls [batch, dim], patches [batch, patch, dim], and
    layer_N [batch, patch, width]: the patches after block N (of a ConvNet: stage N), passed through the final norm

always float32, whatever the network computes in. Patches are row-major. The steps are recorded once, by torch.export,
from images that are none of those which are compared later: a position of the recorded size is then always found out.
"""

import copy
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dinokit.core.files import digest_of_model
from dinokit.core.messages import UserError, line_of, unknown_name
from dinokit.models.convnets import STAGES, ConvNet
from dinokit.models.features import Backbone, Built

Precision = Literal["fp32", "fp16", "bf16", "int8"]
HALVES = {"fp16": torch.float16, "bf16": torch.bfloat16}
INPUT = "images"
OUTPUTS = ("cls", "patches", "layers")
LAYERS = 4  # evenly spaced, as heads for depth take them
USUAL = 224  # side in pixels, where a model names none
SHOWN = (2, 3, 5)  # images, rows and columns of patches that are recorded when sizes are free


@dataclass(frozen=True, kw_only=True)
class About:
    """What stands in the metadata of a file, each by its name: text as it is, all else as JSON."""

    model: str  # as the user wrote it
    weights: str  # digest of the backbone: its weights, settings and pixels
    licence: str  # of the weights, empty if none is known
    input: str
    outputs: tuple[str, ...]  # in the order of the file
    channels: int
    patch_size: int  # in pixels
    mean: tuple[float, ...]  # of values in [0, 1]; one, or per channel
    std: tuple[float, ...]  # divides what is left
    size: int  # side in pixels of the images that the model was meant for
    dynamic: bool  # whether batch, height and width are free
    precision: Precision
    # of a head, what dense.heads.About says, where there is one
    task: str = ""
    head: str = ""  # digest of its weights
    details: Mapping[str, Any] = field(default_factory=dict)  # names of classes, or the range of depths
    short: int | None = None  # pixels that the short side is resized to
    crop: int | None = None  # side of the windows, in pixels
    stride: int | None = None  # from one window to the next

    def plain(self) -> dict[str, str]:
        """Return what a file keeps."""
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in asdict(self).items()}

    @staticmethod
    def of(plain: Mapping[str, str], *, file: object) -> "About":
        """Read what a file keeps, or raise UserError."""
        found: dict[str, Any] = {}
        try:
            for each in fields(About):
                value = plain[each.name]
                read = value if each.type in (str, Precision) else json.loads(value)
                found[each.name] = tuple(read) if isinstance(read, list) else read
        except (KeyError, ValueError) as error:
            raise UserError(f"{file} was not written by dinokit export: its metadata lacks {error}") from error
        return About(**found)


class Exported(nn.Module, ABC):
    """What is written into a file: images -> tensors in the order of their names."""

    def __init__(self, backbone: Built, names: tuple[str, ...], precision: Precision = "fp32") -> None:
        """Keep a backbone, or a copy of it in 16 bits; RoPE's periods and positions stay float32."""
        super().__init__()
        self.backbone = copy.deepcopy(backbone).to(HALVES[precision]) if precision in HALVES else backbone
        self.names = names

    @abstractmethod
    def forward(self, images: Float[Tensor, "batch channel height width"]) -> tuple[Tensor, ...]:
        """Return what the names say."""


@final
class Outputs(Exported):
    """A backbone: cls, patches, layer_N."""

    def forward(self, images: Float[Tensor, "batch channel height width"]) -> tuple[Tensor, ...]:
        """Return what the names say."""
        last = depth_of(self.backbone) - 1
        wanted = [int(name.removeprefix("layer_")) for name in self.names if name.startswith("layer_")]
        layers = list(dict.fromkeys([*wanted, last]))
        found = dict(zip(layers, self.backbone.intermediate(images, layers)))
        returned = {"cls": found[last].cls, "patches": found[last].patches}
        returned |= {f"layer_{layer}": found[layer].patches for layer in wanted}
        return tuple(returned[name].float() for name in self.names)


def exportable(backbone: Backbone) -> Built:
    """Return a backbone of ours, or raise UserError: peers are exported by their own libraries."""
    if not isinstance(backbone, Built):
        raise UserError(
            f"{backbone.name or type(backbone).__name__} runs in another library, whose positions are not known to "
            "follow the size; expected a backbone of ours, such as a run folder or a weights file"
        )
    return backbone


def about(
    backbone: Built, outputs: tuple[str, ...], *, model: str, dynamic: bool, precision: Precision = "fp32"
) -> About:
    """Say what a file of this backbone will hold; UserError if an output does not exist."""
    strange = [name for name in outputs if name not in OUTPUTS]
    if strange or not outputs or len(set(outputs)) < len(outputs):
        raise unknown_name("output", ",".join(strange or outputs), OUTPUTS)
    depth = depth_of(backbone)
    layers = dict.fromkeys(f"layer_{max(depth * part // LAYERS, 1) - 1}" for part in range(1, LAYERS + 1))
    names = [name for output in outputs for name in (layers if output == "layers" else [output])]
    pixels, side = backbone.pixels, backbone.patch_size
    return About(
        model=model,
        weights=digest_of_model(backbone),
        licence=backbone.licence or "",
        input=INPUT,
        outputs=tuple(names),
        channels=backbone.channels,
        patch_size=side,
        mean=pixels.mean,
        std=pixels.std,
        size=max(round((pixels.size or USUAL) / side), 1) * side,
        dynamic=dynamic,
        precision=precision,
    )


def depth_of(backbone: Built) -> int:
    """Return how many layers can be asked for."""
    return STAGES if isinstance(backbone, ConvNet) else int(backbone.config.depth)


@contextmanager
def logged_off() -> Iterator[None]:
    """Without what libraries log meanwhile, which is no matter of whoever exports."""
    was = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(was)


def recorded(network: Exported, told: About, *, target: str) -> ExportedProgram:
    """Write down what a network computes, or raise UserError: one line.

    Free sizes are recorded from a few small images, fixed ones from one image of the model's size.
    """
    batch, rows, columns = SHOWN
    shape = (batch, rows * told.patch_size, columns * told.patch_size) if told.dynamic else (1, told.size, told.size)
    # a ConvNet's sides have bounds that torch finds by itself; what it fixed instead would be found by the comparison
    free = Dim.AUTO if isinstance(network.backbone, ConvNet) else Dim.DYNAMIC
    sizes = {INPUT: dict.fromkeys((0, 2, 3), free)} if told.dynamic else None
    shown = torch.zeros(shape[0], told.channels, *shape[1:])
    try:
        with torch.no_grad():
            return torch.export.export(network, (shown,), dynamic_shapes=sizes)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"{target} cannot hold {told.model}: {line_of(error)}") from error
