"""Models of timm: everything that `timm.create_model` makes and that gives tokens on a grid, or maps.

    load("vit_pe_core_base_patch16_224.fb")     timm's name, with or without a tag
    load("local-dir:FOLDER")                    a folder with config.json and weights
    load("hf-hub:OWNER/NAME")

What timm's `forward_features` returns are the tokens or maps; the vector of its `forward_head(pre_logits=True)` is what
the model pools an image into. A norm that timm applies after pooling (`fc_norm`, `head.norm`) is the final norm of the
patches as well. Transformers with learned positions take images of any size where timm's `dynamic_img_size` exists.

RADIO resizes its 128 x 128 positions to the square of an image's longer side and crops it; timm's plain ViTs of it keep
a smaller table and stretch that. Here they get RADIO's own rule, from the whole table where timm fetches the weights.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from dinokit.core.hub import fetching
from dinokit.core.messages import UserError, library, unknown_name
from dinokit.models.features import Features
from dinokit.peers.peer import Peer, assembled, pixels_of

EXTRA = "timm"
RADIO = 2048  # pixels of which its positions are


def load(name: str) -> "Timm":
    """Load a model of timm with its weights, or raise UserError."""
    timm = library("timm", extra=EXTRA)
    local = name.startswith("local-dir:")
    if ":" not in name:
        _check_name(timm, name)

    def created(*, pretrained: bool) -> nn.Module:
        with fetching(f"timm/{name}", local=local, instead="put its files into a folder, give timm/local-dir:FOLDER"):
            return _created(timm, name, pretrained=pretrained)

    network = created(pretrained=True)
    data = timm.data.resolve_model_data_config(network)
    pixels = pixels_of(data["mean"], data["std"], data["input_size"])
    return Timm(network, name=f"timm/{name}", pixels=pixels, build=lambda: created(pretrained=False))


class Timm(Peer):
    """A network of timm, with the methods that all of them have."""

    def measure(self, network: Any) -> None:
        """Read the sizes off what says how its maps shrink, or raise UserError."""
        stages = list(getattr(network, "feature_info", []))
        if not stages or not hasattr(network, "forward_intermediates"):
            raise UserError(f"{self.name} is of a kind that gives no features of patches; choose another model")
        first = next((module for module in network.modules() if isinstance(module, nn.Conv2d)), None)
        self.prefix = int(getattr(network, "num_prefix_tokens", 0))
        self.dim, self.patch_size = network.num_features, stages[-1]["reduction"]
        self.channels = 3 if first is None else first.in_channels
        self.depth, self.tokens = len(stages), len({stage["reduction"] for stage in stages}) == 1

    def run(
        self, images: Float[Tensor, "batch channel height width"], layers: Sequence[int], *, norm: bool
    ) -> tuple[Features, Mapping[int, Features]]:
        """Return the features of the whole network, and those after each of some layers."""
        theirs: Any = self.network
        with _positions_of_radio(theirs, images.shape[2] // self.patch_size, images.shape[3] // self.patch_size):
            if not layers:
                return self._final(theirs.forward_features(images), images), {}
            options = {"return_prefix_tokens": True} if self.prefix else {}
            # NCHW, norm and all: the one form that the transformers and the convolutional networks of timm share
            last, states = theirs.forward_intermediates(
                images, indices=list(layers), output_fmt="NCHW", stop_early=False, **options
            )
        final = self._final(last, images)
        return final, {index: self._layer(state, final, norm=norm) for index, state in zip(layers, states)}

    def _final(self, state: Tensor, images: Tensor) -> Features:
        theirs: Any = self.network
        pooled = theirs.forward_head(state, pre_logits=True)
        after = _norm_after_pooling(self.network)
        state = after(state)
        if state.ndim == 3:
            grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
            cls = pooled if self._pools() else None
            return assembled(state, grid=grid, prefix=self.prefix, name=self.name, cls=cls)
        maps = state.permute(0, 3, 1, 2) if getattr(theirs, "output_fmt", "NCHW") == "NHWC" else state
        features = Features.from_maps(maps)
        if pooled.shape != features.cls.shape:  # a head with a hidden layer: too far from the patches
            return features
        return Features(pooled, features.registers, features.patches, features.grid)

    def _layer(self, state: Tensor | tuple[Tensor, Tensor], final: Features, *, norm: bool) -> Features:
        maps, prefix = state if isinstance(state, tuple) else (state, None)
        features = Features.from_maps(maps)
        tokens = features.patches if prefix is None else torch.cat([prefix, features.patches], dim=1)
        if self.tokens and norm:
            tokens = _final_norm(self.network)(tokens)
        if not self.tokens:
            return features
        cls = tokens[:, self.prefix :].mean(dim=1) if self._pools() else None
        return assembled(tokens, grid=final.grid, prefix=self.prefix, name=self.name, cls=cls)

    def _pools(self) -> bool:
        """Say whether the model was made to pool its tokens: then its class token, if any, is a mere register."""
        with_cls = any(name.endswith("cls_token") for name, _ in self.network.named_parameters())  # NaFlex: embeds.
        own = not with_cls or getattr(self.network, "attn_pool", None) is not None
        return own or not isinstance(_norm_after_pooling(self.network), nn.Identity)


def _created(timm: Any, name: str, *, pretrained: bool) -> nn.Module:
    """Build the model, for images of any size if it can; weights are loaded strictly, with their own head."""
    network: nn.Module
    table = {"img_size": RADIO} if name.startswith("vit_") and "_radio_" in name else {}
    try:
        network = timm.create_model(name, pretrained=pretrained, dynamic_img_size=True, **table)
    except TypeError:  # timm's answer to an argument that an architecture does not have
        network = timm.create_model(name, pretrained=pretrained)
    return network.float().eval()


def _check_name(timm: Any, name: str) -> None:
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise unknown_name("model of timm", architecture, timm.list_models())
    weights = timm.list_pretrained(f"{architecture}*")
    if tag and name not in weights:
        raise unknown_name("model of timm", name, weights)
    if not timm.is_model_pretrained(architecture):
        raise UserError(f"timm has no weights for '{architecture}'; give those you have as timm/local-dir:FOLDER")


@contextmanager
def _positions_of_radio(network: Any, rows: int, columns: int) -> Iterator[None]:
    """Give a plain ViT of RADIO the positions of a grid: the top left of the square of its longer side."""
    name = str(getattr(network, "pretrained_cfg", {}).get("architecture", ""))
    if not name.startswith("vit_") or "_radio_" not in name:
        yield
        return
    table, grid = network.pos_embed, network.patch_embed.grid_size
    maps, side = table.transpose(1, 2).unflatten(2, grid), max(rows, columns)
    square = functional.interpolate(maps, size=(side, side), mode="bilinear") if grid != (side, side) else maps
    network.pos_embed = nn.Parameter(square[..., :rows, :columns].flatten(2).transpose(1, 2), requires_grad=False)
    network.patch_embed.grid_size = (rows, columns)
    try:
        yield
    finally:
        network.pos_embed, network.patch_embed.grid_size = table, grid


def _final_norm(network: nn.Module) -> nn.Module:
    before = getattr(network, "norm", None)
    after = _norm_after_pooling(network)
    return before if isinstance(before, nn.Module) and isinstance(after, nn.Identity) else after


def _norm_after_pooling(network: nn.Module) -> nn.Module:
    """Return the norm that timm applies to the pooled vector alone; nothing if tokens are normed before."""
    for module in (getattr(network, "fc_norm", None), getattr(getattr(network, "head", None), "norm", None)):
        if isinstance(module, nn.Module) and not isinstance(module, nn.Identity):
            return module
    return nn.Identity()
