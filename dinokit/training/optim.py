"""AdamW with the parameter groups of the DINO family, and gradient clipping part by part.

The rules of DINOv2 and DINOv3: biases, norms and LayerScales are not decayed, tokens are; block i of L learns at
layer_decay ** (L - i), patch embedding and tokens at layer_decay ** (L + 1); the prototypes follow their own learning
rate, which starts frozen.
Source: AdamW arXiv:1711.05101; layer-wise decay arXiv:2003.10555 section 3.4, arXiv:2106.08254.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from dinokit.core import dist
from dinokit.core.device import has_fused
from dinokit.core.numbers import Schedule, above, at_least, between
from dinokit.models.features import Built
from dinokit.training.adamw import STEP, AdamW
from dinokit.training.trained import ALL, LowRank, WithMask, parsed


@dataclass(frozen=True, kw_only=True)
class Config:
    """How the weights move. Rates are the rates used: nothing is scaled by the batch size behind these numbers."""

    lr: Schedule = at_least(0)  # learning rate per step
    weight_decay: Schedule = at_least(0)  # decoupled weight decay per step
    betas: tuple[float, float] = between(0, 1, (0.9, 0.999), without=1)  # decay of AdamW's two moments
    layer_decay: float = between(0, 1, 1.0, without=0)  # factor on the learning rate per block further from the output
    patch_embed_lr: float = at_least(0, 1.0)  # further factor on the learning rate of the patch embedding
    trained: str = ALL  # of the backbone: all; heads: none; last:N blocks; lora:RANK changes; +mask: its mask token too
    freeze_last_layer: int = at_least(0, 0)  # first steps in which the prototypes stay as they are
    freeze: Literal["rate", "gradient"] = "rate"  # how they stay: rate 0, moments go on (v2, v3); gradient removed (v1)
    clip: float | None = above(0, 3.0)  # largest gradient norm; null: no clipping
    clip_per: Literal["part", "parameter"] = "part"  # norm over backbone, each head (v2, v3); over each tensor (v1)

    def __post_init__(self) -> None:
        parsed(self.trained)


@dataclass(frozen=True)
class Multipliers:
    """What one parameter's rates are multiplied by, and whether it belongs to the prototypes."""

    lr: float
    weight_decay: float
    last_layer: bool


def optimizer(parts: Mapping[str, nn.Module], config: Config) -> AdamW:
    """Build AdamW with one group per set of multipliers over the trained parameters of all parts.

    Args:
        parts: name -> module that learns, e.g. backbone and heads.
    """
    groups: dict[Multipliers, list[nn.Parameter]] = {}
    for module in parts.values():
        for name, parameter in module.named_parameters():
            blocks = 0  # from the end
            if isinstance(module, Built | LowRank | WithMask):
                depth = module.config.depth if isinstance(module, Built) else module.depth
                blocks = depth + 1 - module.depth_of(name)
            embeds = isinstance(module, Built) and module.depth_of(name) == 0 and "." in name  # no token
            key = Multipliers(
                lr=config.layer_decay**blocks * (config.patch_embed_lr if embeds else 1.0),
                weight_decay=float(parameter.ndim > 1),  # biases, norms and LayerScales are vectors
                last_layer="last_layer" in name,
            )
            if parameter.requires_grad:
                groups.setdefault(key, []).append(parameter)
    rows = [{"params": parameters, "multipliers": key} for key, parameters in groups.items()]
    fused = all(has_fused(p.device) for parameters in groups.values() for p in parameters)
    return AdamW(rows, betas=config.betas, eps=1e-8, fused=fused)


def set_rates(optimizer: AdamW, config: Config, *, step: int, lr_factor: float = 1.0) -> dict[str, float]:
    """Write this step's rates into every group; return them for the log.

    Args:
        lr_factor: on the learning rate of the schedule; below 1 after a run went back.
    """
    lr, weight_decay = config.lr.at(step) * lr_factor, config.weight_decay.at(step)
    frozen = step < config.freeze_last_layer and config.freeze == "rate"
    for group in optimizer.param_groups:
        factor: Multipliers = group["multipliers"]
        group["lr"] = 0.0 if frozen and factor.last_layer else lr * factor.lr
        group["weight_decay"] = weight_decay * factor.weight_decay
    return {"lr": lr, "weight_decay": weight_decay}


def drop_frozen_gradients(optimizer: AdamW, config: Config, *, step: int) -> None:
    """Remove the prototypes' gradients while they are frozen the way of DINO v1."""
    if step >= config.freeze_last_layer or config.freeze != "gradient":
        return
    for group in optimizer.param_groups:
        if group["multipliers"].last_layer:
            for parameter in group["params"]:
                parameter.grad = None


def clip_gradients(parts: Mapping[str, nn.Module], config: Config) -> dict[str, float]:
    """Clip in place and return each part's gradient norm before clipping."""
    norms = {}
    for name, module in parts.items():
        parameters = [p for p in module.parameters() if p.grad is not None]
        norms[name] = float(_norm(parameters))
        if config.clip is None:
            continue
        if config.clip_per == "part":
            _scale(parameters, norms[name], config.clip)
        else:
            for parameter in parameters:
                _scale([parameter], float(_norm([parameter])), config.clip)
    return norms


def state_by_name(optimizer: AdamW, parts: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """Return the optimiser's moments as flat named tensors."""
    moments = {name: optimizer.state.get(parameter, {}) for name, parameter in named(parts)}
    return {f"{name}.{key}": value for name, own in moments.items() for key, value in own.items()}


def load_state_by_name(optimizer: AdamW, parts: Mapping[str, nn.Module], state: Mapping[str, torch.Tensor]) -> None:
    """Put moments written by `state_by_name` back; parameters without moments start fresh."""
    optimizer.state.clear()
    entries: dict[str, dict[str, Any]] = {}
    for name, value in state.items():
        parameter_name, key = name.rsplit(".", 1)
        entries.setdefault(parameter_name, {})[key] = value
    for name, parameter in named(parts):
        if name in entries:
            optimizer.state[parameter] = {
                key: value.to(optimizer.place(parameter) if key == STEP else parameter.device)
                for key, value in entries[name].items()
            }


def named(parts: Mapping[str, nn.Module]) -> Iterable[tuple[str, nn.Parameter]]:
    """Name the parameters of all parts as `state_by_name` does."""
    for part, module in parts.items():
        for name, parameter in module.named_parameters():
            yield f"{part}.{name}", parameter


def _norm(parameters: list[nn.Parameter]) -> torch.Tensor:
    """Return the norm of all gradients; of sharded ones over all ranks, in one message."""
    gradients = _gradients(parameters)
    norm = torch.nn.utils.get_total_norm(gradients)
    return dist.all_reduce(norm**2).sqrt() if any(map(dist.is_shard, parameters)) else norm


def _scale(parameters: list[nn.Parameter], norm: float, largest: float) -> None:
    factor = min(1.0, largest / (norm + 1e-6))
    if factor < 1:
        torch._foreach_mul_(_gradients(parameters), factor)


def _gradients(parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    return [dist.own_rows(p.grad) for p in parameters if p.grad is not None]
