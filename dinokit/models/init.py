"""All initial values of all weights, in one place.

| tensor                    | dino             | dinov2           | dinov3           | narrow           |
|---------------------------|------------------|------------------|------------------|------------------|
| linear weight, bias       | N(0, .02), 0     | the same         | the same         | N(0, fan_in^-1/2)|
| patch convolution         | U(+-fan_in^-1/2) | the same         | the same         | the same         |
| cls_token                 | N(0, .02)        | N(0, 1e-6)       | N(0, .02)        | N(0, .02)        |
| register_tokens           | N(0, .02)        | N(0, 1e-6)       | N(0, .02)        | N(0, .02)        |
| pos_embed                 | N(0, .02)        | the same         | the same         | the same         |
| mask_token                | 0                | 0                | 0                | 0                |
| norm weight, bias         | 1, 0             | the same         | the same         | the same         |
| last_layer weight         | as linear        | the same         | the same         | the same         |
| last_layer weight_g       | 1                | the same         | the same         | the same         |
| last_layer weight_v       | U(+-fan_in^-1/2) | the same         | the same         | the same         |

"narrow" is ours: .02 is about fan_in^-1/2 at the widths of the papers (2048 and up), but much too small below 256.

Convolutional networks have columns of their own:

| tensor                          | convnext  | resnet                |
|---------------------------------|-----------|-----------------------|
| convolution weight              | N(0, .02) | N(0, (2/fan_out)^1/2) |
| convolution bias                | 0         | there is none         |
| linear, norm weight, bias       | as above  | as above              |
| batch norm running mean, var    | -         | 0, 1                  |

Sources: arXiv:2201.03545, appendix A; arXiv:1502.01852, section 2.2, backward form, as in torchvision.

LayerScale, RoPE periods and the key bias mask come from `constants` of their modules.

N(0, s) is a normal distribution of standard deviation s. The official code truncates it at +-2, a hundred standard
deviations away; without, the rare infinities of the inverse error function cannot occur. Original DINO has no
registers; they are drawn like its CLS token.

Every tensor is drawn on the CPU by a generator of its own, made from the seed and the tensor's name: the same numbers
on every device, no matter what else the network contains, and the global generators stay untouched. Everything is
filled with NaN before, so that a forgotten tensor cannot pass for a small random one.
"""

import math
import zlib
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from dinokit.core import dist
from dinokit.core.seed import derived

Style = Literal["dino", "dinov2", "dinov3", "narrow"]  # of transformers and heads
ConvStyle = Literal["convnext", "resnet"]


@runtime_checkable
class HasConstants(Protocol):
    """A module that knows the initial values of some of its own tensors."""

    constants: dict[str, Callable[[], Tensor]]  # makes them on the CPU, by the names of own parameters or buffers


def materialise(module: nn.Module, style: Style | ConvStyle, *, seed: int, device: torch.device) -> None:
    """Give memory and initial values to a module built on the meta device; on the meta device itself do nothing."""
    if device.type == "meta":
        return
    for _, owner, name, tensor in list(tensors(module)):  # Module.to_empty would import sympy, for a second
        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        is_weight = isinstance(tensor, nn.Parameter)
        setattr(owner, name, nn.Parameter(empty, tensor.requires_grad) if is_weight else empty)
    initialise(module, style, seed=seed)


@torch.no_grad()
def initialise(module: nn.Module, style: Style | ConvStyle, *, seed: int) -> None:
    """Set every parameter and buffer in place.

    Args:
        module: on a real device, for example after `to_empty`; of a sharded one each rank keeps its rows.
        style: column of the tables above.
        seed: at least 0. Two modules with the same seed get the same values in tensors of the same name and shape.
    Raises:
        AssertionError: naming the tensors that no rule covers.
    """
    for _, _, _, tensor in tensors(module):
        if tensor.is_floating_point():
            dist.own_rows(tensor).fill_(math.nan)
    for path, owner, name, tensor in tensors(module):
        key = zlib.crc32(f"{path}.{name}".encode())
        value = _initial(owner, name, tensor.shape, style, torch.Generator().manual_seed(derived(seed, key)))
        if value is not None:
            dist.fill(tensor, value)
    forgotten = [
        f"{path}.{name}".lstrip(".") for path, _, name, tensor in tensors(module) if dist.own_rows(tensor).isnan().any()
    ]
    assert not forgotten, f"the initialiser has no rule for {', '.join(forgotten)}"


def tensors(module: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yield every parameter and buffer behind its owner's path, its owner, and its name there."""
    for path, owner in module.named_modules():
        for name, tensor in chain(owner.named_parameters(recurse=False), owner.named_buffers(recurse=False)):
            yield path, owner, name, tensor


def _initial(
    owner: nn.Module, name: str, shape: torch.Size, style: Style | ConvStyle, generator: torch.Generator
) -> Tensor | None:
    constants = owner.constants if isinstance(owner, HasConstants) else {}
    if name in constants:
        return constants[name]()
    empty = torch.empty(shape, device="cpu")
    match owner, name:
        case nn.Conv2d(), "weight" if style == "convnext":
            return empty.normal_(0, 0.02, generator=generator)
        case nn.Conv2d(), "weight" if style == "resnet":
            fan_out = shape[0] * shape[2] * shape[3]
            return empty.normal_(0, (2 / fan_out) ** 0.5, generator=generator)
        case nn.Conv2d(), "weight" | "bias" if style != "convnext":
            bound = owner.weight.shape[1:].numel() ** -0.5
            return empty.uniform_(-bound, bound, generator=generator)
        case _, "weight_v":
            bound = shape[1] ** -0.5
            return empty.uniform_(-bound, bound, generator=generator)
        case nn.Linear(), "weight":
            return empty.normal_(0, shape[1] ** -0.5 if style == "narrow" else 0.02, generator=generator)
        case _, "cls_token" | "register_tokens":
            return empty.normal_(0, 1e-6 if style == "dinov2" else 0.02, generator=generator)
        case _, "pos_embed":
            return empty.normal_(0, 0.02, generator=generator)
        case (nn.LayerNorm() | nn.BatchNorm2d(), "weight") | (_, "running_var" | "weight_g"):
            return empty.fill_(1)
        case nn.Conv2d() | nn.Linear() | nn.LayerNorm() | nn.BatchNorm2d(), "bias":
            return empty.zero_()
        case _, "mask_token" | "running_mean" | "num_batches_tracked":
            return empty.zero_()
    return None
