"""Vision models of Hugging Face transformers, from the hub or a folder with config.json and safetensors.

    load("facebook/dinov2-base")        an id of the hub: its config and safetensors are fetched, nothing else
    load("FOLDER")                      what save_pretrained wrote

Only kinds in the table below are loaded, and never code of a repository. How each is read:

- CLIP norms its class token alone (post_layernorm); the same norm is applied to the patches;
- SigLIP has no class token: cls is its attention pooling, which no projection follows;
- SigLIP 2 of variable size (NaFlex) takes patches: an image is cut into those of its own grid, without padding;
- ViT-MAE hides three quarters of the patches and shuffles the rest: here it hides none and keeps the order;
- the features after inner blocks are read off the blocks themselves: versions of transformers disagree on whether the
  last of `hidden_states` is normed.
"""

import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dinokit.core.hub import fetching
from dinokit.core.messages import UserError, library
from dinokit.images.intensity import Pixels
from dinokit.models.features import Features
from dinokit.peers.peer import Peer, assembled

EXTRA = "hf"
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FILES = [CONFIG, PREPROCESSOR, "model.safetensors", "model-*.safetensors", "model.safetensors.index.json"]
HALF = Pixels((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI = Pixels((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class Kind:
    """How a kind of model is built and read."""

    network: str  # class of transformers
    norm: str  # its final norm
    has_cls: bool = True  # the first token is a class token
    usual: Pixels = Pixels()  # noqa: RUF009 (frozen); where preprocessor_config.json is missing


CLIP = Kind("CLIPVisionModel", "post_layernorm", usual=OPENAI)
SIGLIP = Kind("SiglipVisionModel", "post_layernorm", has_cls=False, usual=HALF)
SIGLIP2 = Kind("Siglip2VisionModel", "post_layernorm", has_cls=False, usual=HALF)
KINDS = {  # by model_type of config.json
    "clip": CLIP,
    "clip_vision_model": CLIP,
    "siglip": SIGLIP,
    "siglip_vision_model": SIGLIP,
    "siglip2": SIGLIP2,
    "siglip2_vision_model": SIGLIP2,
    # without a preprocessor_config.json as published, which is also how our own networks take them
    "dinov2": Kind("Dinov2Model", "layernorm", usual=Pixels(size=224)),
    "dinov2_with_registers": Kind("Dinov2WithRegistersModel", "layernorm", usual=Pixels(size=224)),
    "dinov3_vit": Kind("DINOv3ViTModel", "norm", usual=Pixels(size=256)),
    "dinov3_convnext": Kind("DINOv3ConvNextModel", "layer_norm", has_cls=False, usual=Pixels(size=256)),
    "vit": Kind("ViTModel", "layernorm", usual=Pixels(size=224)),  # DINO
    "vit_mae": Kind("ViTMAEModel", "layernorm"),
    "vit_msn": Kind("ViTMSNModel", "layernorm"),
    "ijepa": Kind("IJepaModel", "layernorm", has_cls=False),
}


def load(name: str) -> "Transformers":
    """Load a model of transformers.

    Args:
        name: a folder, or else an id of the hub.
    Raises:
        UserError: if transformers is not installed, the model is of no known kind or incomplete, or cannot be fetched.
    """
    what = f"hf/{name}"
    transformers = library("transformers", extra=EXTRA)
    local = os.path.isdir(name)  # to which a name that is too long is no folder
    if not local and (name.startswith((".", "~")) or name.count("/") > 1):
        raise UserError(f"no folder at {name}, and an id of the hub is OWNER/NAME")
    with fetching(what, local=local, instead="put its files into a folder, give hf/FOLDER"):
        folder = Path(name) if local else _fetched(name)
        about = _json(folder / CONFIG)
        kind = _kind(about, what)
        network = _loaded(transformers, kind, folder, what)
    described = {} if not (folder / PREPROCESSOR).exists() else _json(folder / PREPROCESSOR)
    return Transformers(
        network,
        name=what,
        pixels=pixels(described, kind.usual, native=_native(network)),
        build=lambda: type(network)(network.config).eval(),
    )


def pixels(preprocessor: Mapping[str, Any], usual: Pixels, *, native: int | None = None) -> Pixels:
    """Return what preprocessor_config.json says of images.

    Args:
        preprocessor: its content; may be empty.
        usual: for what it does not say.
        native: the size, if neither says one.
    Raises:
        UserError: if it is damaged.
    """
    size = preprocessor.get("crop_size") if preprocessor.get("do_center_crop") else preprocessor.get("size")
    try:
        side = size.get("height", size.get("shortest_edge")) if isinstance(size, Mapping) else size
        mean, std = preprocessor.get("image_mean", usual.mean), preprocessor.get("image_std", usual.std)
        return Pixels(tuple(map(float, mean)), tuple(map(float, std)), int(side) if side else usual.size or native)
    except (TypeError, ValueError) as error:
        raise UserError(f"{PREPROCESSOR} is damaged: {error}") from error


class Transformers(Peer):
    """A network of transformers, of a known kind."""

    def measure(self, network: Any) -> None:
        """Read the sizes off its configuration."""
        config = network.config
        self.kind = KINDS[config.model_type]
        self.prefix = self.kind.has_cls + getattr(config, "num_register_tokens", 0)
        self.channels, self.tokens = config.num_channels, not hasattr(config, "hidden_sizes")
        if self.tokens:
            self.dim, self.patch_size = config.hidden_size, int(config.patch_size)
            self.depth = config.num_hidden_layers
        else:  # a convolutional network
            self.dim, self.patch_size, self.depth = config.hidden_sizes[-1], 32, len(config.hidden_sizes)
        if hasattr(config, "mask_ratio"):
            config.mask_ratio = 0.0

    def run(
        self, images: Float[Tensor, "batch channel height width"], layers: Sequence[int], *, norm: bool
    ) -> tuple[Features, Mapping[int, Features]]:
        """Return the features of the whole network, and those after each of some layers."""
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        states: dict[int, Tensor] = {}
        last = self.depth - 1
        hooks = [self._layers()[index].register_forward_hook(_keeping(states, index)) for index in {*layers, last}]
        try:
            out = self.network(**self._inputs(images, grid))
        finally:
            for hook in hooks:
                hook.remove()
        pooled = None if self.kind.has_cls else out.get("pooler_output")
        final = self._features(states[last], grid, norm=True, pooled=pooled)
        return final, {index: self._features(states[index], grid, norm=norm, pooled=None) for index in layers}

    def _features(self, state: Tensor, grid: tuple[int, int], *, norm: bool, pooled: Tensor | None) -> Features:
        final_norm = getattr(self.network, self.kind.norm)
        if state.ndim == 4:
            maps = Features.from_maps(state)
            if pooled is None:
                return maps
            return Features(pooled, maps.registers, final_norm(maps.patches), maps.grid)
        tokens = final_norm(state) if norm else state
        if pooled is None and not self.kind.has_cls:
            pooled = tokens[:, self.prefix :].mean(dim=1)
        return assembled(tokens, grid=grid, prefix=self.prefix, name=self.name, cls=pooled)

    def _inputs(self, images: Tensor, grid: tuple[int, int]) -> dict[str, Any]:
        accepts = inspect.signature(self.network.forward).parameters
        if "spatial_shapes" in accepts:
            patches = _cut(images, self.patch_size)
            mask = torch.ones(patches.shape[:2], dtype=torch.int64, device=images.device)
            shapes = torch.tensor([grid] * len(images), device=images.device)
            return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}
        inputs: dict[str, Any] = {"pixel_values": images}
        if "interpolate_pos_encoding" in accepts:
            inputs["interpolate_pos_encoding"] = True
        if "noise" in accepts:  # ascending: the random order in which patches are kept
            inputs["noise"] = torch.arange(grid[0] * grid[1], device=images.device).float().expand(len(images), -1)
        return inputs

    def _layers(self) -> nn.ModuleList:
        lists = (module for module in self.network.modules() if isinstance(module, nn.ModuleList))
        return next(module for module in lists if len(module) == self.depth)


def _kind(about: Mapping[str, Any], what: str) -> Kind:
    named = about.get("model_type")
    if named in KINDS:
        return KINDS[named]
    own = "; the code it brings along is never run" if "auto_map" in about else ""
    raise UserError(f"{what} is of kind '{named}'{own}; known are: {', '.join(sorted(KINDS))}")


def _fetched(name: str) -> Path:
    """Download what is needed, or find it in the cache."""
    hub = library("huggingface_hub", extra=EXTRA)
    offline = library("huggingface_hub.constants", extra=EXTRA).HF_HUB_OFFLINE
    return Path(hub.snapshot_download(name, allow_patterns=FILES, local_files_only=offline))


def _loaded(transformers: Any, kind: Kind, folder: Path, what: str) -> nn.Module:
    """Load the weights in float32, all that are used or none."""
    if not hasattr(transformers, kind.network):
        raise UserError(f"transformers {transformers.__version__} has no {kind.network}; upgrade it")
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"{what} holds no model.safetensors; save it again with save_pretrained")
    build = getattr(transformers, kind.network)

    with _without_bars(transformers):
        network, found = build.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below
        )
    missing = sorted(key for key in found["missing_keys"] if not key.startswith("pooler."))  # never read
    if missing or found["mismatched_keys"]:
        odd = missing or [str(key) for key in found["mismatched_keys"]]
        raise UserError(f"{what} is incomplete: {len(odd)} weights are missing or misshapen, such as {odd[0]}")
    loaded: nn.Module = network.eval()
    return loaded


@contextmanager
def _without_bars(transformers: Any) -> Iterator[None]:
    logging = transformers.utils.logging
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _keeping(states: dict[int, Tensor], index: int) -> Any:
    def keep(_module: nn.Module, _inputs: Any, out: Any) -> None:
        states[index] = out[0] if isinstance(out, tuple) else out

    return keep


def _cut(images: Tensor, side: int) -> Float[Tensor, "batch patch value"]:
    """Cut images into row-major patches, each [y, x, channel] flattened: the input of NaFlex models."""
    cells = torch.unflatten(
        torch.unflatten(images, 3, (-1, side)), 2, (-1, side)
    )  # [batch, channel, row, y, column, x]
    return cells.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # [batch, patch, y*x*channel]


def _native(network: Any) -> int | None:
    config = network.config
    if hasattr(config, "num_patches"):  # NaFlex: a square of as many patches as there are positions
        return int(config.num_patches**0.5) * int(config.patch_size)
    size = getattr(config, "image_size", None)
    return int(size) if isinstance(size, int) else None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} holds no {path.name}; expected what save_pretrained writes") from error
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: expected a table, got {type(content).__name__}")
    return content
