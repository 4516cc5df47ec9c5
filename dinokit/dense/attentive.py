"""Attentive probes: a learned query looks at all tokens of an image, and a linear layer names what it gathers.

Of the tokens x - CLS and the patches after the last block, each channel brought to mean 0 and variance 1 of the
training images - every head of attention h makes

    z_h = V_h sum_t softmax_t(q_h . K_h x_t / sqrt(d_h)) x_t,        logits = W LayerNorm(z + b) + c

Source: attentive probing of AIM (arXiv:2401.08541, where a batch norm stands for the mean and the variance), the last
stage of the probes of V-JEPA 2 (arXiv:2506.09985) and of DINOv3's on videos (arXiv:2508.10104, appendix D.6).

There is one query, so that no token needs a key or a value of its own: K_h' q_h is a single vector, and V_h may wait
for the sum. All probes of a sweep are stacked, and what they do to the tokens is two matrix products. No probe sees
another, and one that diverges stays alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.numbers import at_least
from dinokit.core.seed import derived
from dinokit.dense.sweep import adamw, falling
from dinokit.images.transforms import Square
from dinokit.models.features import Backbone
from dinokit.models.tokens import Tokens

WIDTH = 64  # channels of a head of attention, about
FLAT = 1e-6  # of its mean: a channel that varies by less holds rounding

MATRICES = ("key", "value", "weight")  # what decays
SIDE = 224  # pixels that a model without a size of its own sees
_ROWS = 64  # images whose scores are held at once


def shown_by(backbone: Backbone) -> Square:
    """Return how an image is brought to a model: all have equally many tokens."""
    return Square(backbone.pixels.size or SIDE, backbone.patch_size)


@dataclass(frozen=True, kw_only=True)
class Member:
    """One probe of a sweep."""

    lr: float  # peak
    weight_decay: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """How all probes are trained."""

    iterations: int = at_least(1)  # steps
    seed: int = at_least(0)  # of the initial weights


@dataclass(frozen=True)
class Scale:
    """What brings every channel of the tokens to mean 0 and variance 1."""

    mean: Float[Tensor, " dim"]
    deviation: Float[Tensor, " dim"]

    @staticmethod
    def of(parts: Iterable[Float[Tensor, "_ token dim"]]) -> "Scale":
        """Measure it on the tokens of some images."""
        first, count, sums = None, 0, None
        for part in parts:
            values = part.flatten(0, 1).double()
            first = values.mean(dim=0) if first is None else first
            values -= first  # squares of small differences of large numbers would be rounding
            both = torch.stack([values.sum(dim=0), values.square().sum(dim=0)])
            count, sums = count + len(values), both if sums is None else sums + both
        assert first is not None
        assert sums is not None
        shift, square = sums / count
        mean, deviation = first + shift, (square - shift.square()).clamp_min(0).sqrt()
        return Scale(mean.float(), deviation.masked_fill(deviation <= FLAT * mean.abs(), 1).float())

    def __call__(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "batch token dim"]:
        """Apply it."""
        return (tokens - self.mean) / self.deviation


def heads_of(dim: int) -> int:
    """Return how many heads of attention there are: of about 64 channels, all alike."""
    return next(count for count in range(max(1, dim // WIDTH), 0, -1) if dim % count == 0)


def scored(
    values: Mapping[str, Tensor], tokens: Float[Tensor, "batch token dim"]
) -> Float[Tensor, "probe batch class"]:
    """Score the classes by stacked probes.

    Args:
        values: [probe, ...]: query [head, part], key and value [head, part, dim], offset, gain and shift [dim], weight
            [class, dim], bias [class].
        tokens: of mean 0 and variance 1.
    """
    probes, heads, part, dim = values["key"].shape
    asks = torch.einsum("phe,phed->phd", values["query"], values["key"]) / part**0.5
    looks = (asks.flatten(0, 1) @ tokens.transpose(1, 2)).softmax(dim=-1)  # [batch, probe * head, token]
    found = (looks @ tokens).unflatten(1, (probes, heads))  # [batch, probe, head, dim]
    seen = torch.einsum("bphd,phed->pbhe", found, values["value"]).flatten(2) + values["offset"][:, None]
    normed = F.layer_norm(seen, (dim,)) * values["gain"][:, None] + values["shift"][:, None]  # [probe, batch, dim]
    return torch.baddbmm(values["bias"][:, None], normed, values["weight"].transpose(1, 2))


def _first(dim: int, classes: int, *, seed: int) -> dict[str, Tensor]:
    """Return the initial values of a probe."""
    heads = heads_of(dim)
    part = dim // heads
    draw = torch.Generator().manual_seed(derived(seed))
    # of a variance that keeps that of what comes in; the last layer begins near 0
    return {
        "query": torch.randn(heads, part, generator=draw),
        "key": torch.randn(heads, part, dim, generator=draw) / dim**0.5,
        "value": torch.randn(heads, part, dim, generator=draw) / dim**0.5,
        "offset": torch.zeros(dim),
        "gain": torch.ones(dim),
        "shift": torch.zeros(dim),
        "weight": torch.randn(classes, dim, generator=draw) * 0.01,
        "bias": torch.zeros(classes),
    }


@final
class Probes:
    """All probes of a sweep, stacked."""

    def __init__(
        self, members: Sequence[Member], scale: Scale, *, classes: int, training: Training, device: torch.device
    ) -> None:
        self.members, self.classes, self.training = list(members), classes, training
        self.scale = Scale(scale.mean.to(device), scale.deviation.to(device))
        dim = len(scale.mean)
        first = _first(dim, classes, seed=training.seed)
        self.values = {
            name: value.to(device).expand(len(members), *value.shape).clone().requires_grad_()
            for name, value in first.items()
        }  # [probe, ...]
        self.moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in self.values.items()}
        self.lr = torch.tensor([member.lr for member in members], device=device)
        self.decay = torch.tensor([member.weight_decay for member in members], device=device)

    def logits(self, tokens: Float[Tensor, "batch token dim"]) -> Float[Tensor, "probe batch class"]:
        """Score the classes by all probes."""
        return scored(self.values, self.scale(tokens))

    def losses(
        self, tokens: Float[Tensor, "batch token dim"], labels: Int64[Tensor, " batch"]
    ) -> Float[Tensor, " probe"]:
        """Return the loss of every probe."""
        logits = self.logits(tokens)
        each = F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)), reduction="none")
        return each.view(len(logits), -1).mean(dim=1)

    def step(self, tokens: Float[Tensor, "batch token dim"], labels: Int64[Tensor, " batch"], *, step: int) -> None:
        """Take one step of AdamW with every probe."""
        with torch.enable_grad():
            slopes = torch.autograd.grad(self.losses(tokens, labels).sum(), list(self.values.values()))
        rate, none = self.lr * falling(step, self.training.iterations), torch.zeros_like(self.decay)
        with torch.no_grad():
            for (name, value), slope in zip(self.values.items(), slopes, strict=True):
                decay = self.decay if name in MATRICES else none
                adamw(value, slope, self.moments[name], rate=rate, decay=decay, step=step)

    def finite(self) -> Bool[Tensor, " probe"]:
        """Tell which probes have not diverged."""
        return torch.stack([value.isfinite().flatten(1).all(dim=1) for value in self.values.values()]).all(dim=0)

    def state(self) -> list[Any]:
        """Return what a training is continued from."""
        return [[value.detach(), *self.moments[name]] for name, value in self.values.items()]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What a head reads, and what it says."""

    width: int = at_least(1)  # numbers of a token
    outputs: int = at_least(1)  # classes


@final
class AttentiveHead(nn.Module):
    """One probe: tokens of images -> scores of classes."""

    reading = Tokens()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        for name, value in _first(config.width, config.outputs, seed=0).items():
            self.register_parameter(name, nn.Parameter(value))
        self.mean: Tensor
        self.deviation: Tensor
        self.register_buffer("mean", torch.zeros(config.width))
        self.register_buffer("deviation", torch.ones(config.width))

    @staticmethod
    def of(probes: Probes, index: int) -> "AttentiveHead":
        """Take one probe out of a sweep."""
        scale = probes.scale
        head = AttentiveHead(Config(width=len(scale.mean), outputs=probes.classes))
        state = {name: value[index].detach() for name, value in probes.values.items()}
        head.load_state_dict(state | {"mean": scale.mean, "deviation": scale.deviation})
        return head.to(scale.mean.device).eval().requires_grad_(False)

    def forward(self, tokens: Float[Tensor, "image token dim"]) -> Float[Tensor, "image class"]:
        """Score the classes: logits."""
        values = {name: value[None] for name, value in self.named_parameters()}
        return scored(values, Scale(self.mean, self.deviation)(tokens))[0]

    @torch.no_grad()
    def probabilities(self, rows: Float[Tensor, "image token dim"]) -> Float[Tensor, "image class"]:
        """Return the probability of every class, on the CPU."""
        device = self.mean.device
        return torch.cat([self(part.to(device)).softmax(dim=1).cpu() for part in torch.split(rows, _ROWS)])


TASK = "attentive"
HEADS = {TASK: (Config, AttentiveHead)}
DETAILS = ("classes",)  # of a head: their names, in the order of its outputs
