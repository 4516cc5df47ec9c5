"""The vision transformer of DINO (arXiv:2104.14294), DINOv2 (2304.07193, 2309.16588) and DINOv3 (2508.10104).

    z0 = [CLS + pos, registers, patches + pos]          (ViT, arXiv:2010.11929, equation 1; registers: no position)
    z_l = block_l(z_{l-1}, rotation)                     (block.py; with RoPE there is no pos, but a rotation)
    output = norm(z_L)

Parameter names are the official ones of DINOv2 wherever those exist.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinokit.core.bounds import above, at_least, between
from dinokit.core.errors import UserError
from dinokit.images.normalisation import default_pixels
from dinokit.models import init, position
from dinokit.models.attention import Bias
from dinokit.models.block import Block
from dinokit.models.features import Backbone, Features, chosen_layers
from dinokit.models.ffn import Mlp, SwiGlu
from dinokit.models.init import Style
from dinokit.models.patch import PatchEmbed
from dinokit.models.rope import Config as RopeConfig
from dinokit.models.rope import Rope, Rotation


@dataclass(frozen=True, kw_only=True)
class Config:
    """Architecture and initial values of a vision transformer; models/variants.py holds the published ones."""

    patch_size: int = at_least(1, 16)  # side in pixels
    channels: int = at_least(1, 3)  # of the images
    dim: int = at_least(1, 384)  # width of a token
    depth: int = at_least(1, 12)  # blocks
    heads: int = at_least(1, 6)  # per block; divides dim
    registers: int = at_least(0, 4)  # extra tokens without a position
    stem: int | None = at_least(1, None)  # channels of a convolution before the patches; null: none, as published
    mask_token: bool = True  # a learned vector in place of hidden patches; needed by masked objectives
    ffn: Literal["mlp", "swiglu"] = "mlp"  # feed-forward network of a block
    ffn_hidden: int = at_least(1, 1536)  # its inner width; mlp: usually 4 * dim, swiglu: see ffn.swiglu_hidden
    qkv_bias: Bias = "qv"  # attention bias of queries, keys, values; "qv" masks the useless one of the keys
    position: Literal["rope", "offset", "antialias"] = "rope"  # rotary, or a learned table and how it is resized
    position_grid: int | None = None  # side of the learned table in patches; null with rope
    rope: RopeConfig = field(default_factory=RopeConfig)  # only with position "rope"
    layer_scale: float | None = 1e-5  # initial factor of each residual channel; null: no LayerScale
    norm_eps: float = above(0, 1e-5)  # of every LayerNorm; 1e-6 in DINO and DINOv2
    untie_cls_norm: bool = False  # an own final norm for CLS and registers
    untie_local_cls_norm: bool = False  # another one for them on local crops while training
    drop_path: float = between(0, 1, 0.0, without=1)  # fraction of the samples that skip a residual branch in training
    drop_path_shape: Literal["uniform", "linear"] = "uniform"  # the same in all blocks, or growing from 0 in the first
    init: Style = "dinov3"  # initial values, see models/init.py

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise UserError(f"vit dim {self.dim} is not divisible by {self.heads} heads; change one of them")
        if self.stem is not None and self.patch_size % 2:
            raise UserError(f"vit stem needs an even patch size, got {self.patch_size}")
        self._check_position()

    def _check_position(self) -> None:
        if self.position == "rope":
            if self.dim // self.heads % 4:
                raise UserError(f"RoPE needs dim / heads to be a multiple of 4, got {self.dim} / {self.heads}")
            if self.position_grid is not None:
                raise UserError(f"position_grid {self.position_grid} has no use with position rope; set it to null")
            return
        if self.position_grid is None or self.position_grid < 1:
            raise UserError(f"position {self.position} needs position_grid, the side of its table in patches")
        if self.rope != RopeConfig():
            raise UserError(f"rope options have no use with position {self.position}; remove them or use position rope")


class VisionTransformer(Backbone):
    """Images of any size -> Features."""

    def __init__(self, config: Config, *, seed: int = 0) -> None:
        """Build on torch's default device with initial values from the seed.

        On the meta device nothing is allocated: call `to_empty(device=...)`, then `initialise(seed)`. Whoever trains
        or loads the weights sets `pixels`; until then it is ImageNet's, or [-1, 1] for other than three channels.
        """
        super().__init__()
        self.config = config
        self.dim = config.dim
        self.patch_size = config.patch_size
        self.channels = config.channels
        self.pixels = default_pixels(config.channels)
        device = torch.get_default_device()
        with torch.device("meta"):
            self._build(config)
        init.materialise(self, config.init, seed=seed, device=device)

    def fresh(self, seed: int) -> "VisionTransformer":
        """Build the same architecture with initial values from the seed."""
        return VisionTransformer(self.config, seed=seed)

    def initialise(self, seed: int) -> None:
        """Set all parameters and buffers in place."""
        init.initialise(self, self.config.init, seed=seed)

    def _build(self, config: Config) -> None:
        def token(*shape: int, exists: bool = True) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(*shape, config.dim)) if exists else None

        def norm(*, exists: bool = True) -> nn.LayerNorm | None:
            return nn.LayerNorm(config.dim, eps=config.norm_eps) if exists else None

        cells = (config.position_grid or 0) ** 2
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim))
        self.register_tokens = token(1, config.registers, exists=config.registers > 0)
        self.mask_token = token(1, exists=config.mask_token)
        self.pos_embed = token(1, 1 + cells, exists=cells > 0)
        self.patch_embed = PatchEmbed(
            patch_size=config.patch_size, channels=config.channels, dim=config.dim, stem=config.stem
        )
        self.rope_embed = Rope(config.dim // config.heads, config.rope) if config.position == "rope" else None
        self.blocks = nn.ModuleList(_block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=config.norm_eps)
        self.cls_norm = norm(exists=config.untie_cls_norm)
        self.local_cls_norm = norm(exists=config.untie_local_cls_norm)

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,
    ) -> Features:
        """Embed images; patches whose mask is True are replaced by the mask token (their position stays known)."""
        tokens, grid = self._embed(images, masks)
        for block, rotation in self._steps(grid):
            tokens = block(tokens, rotation)
        return self._features(tokens, grid, norm=True, local=local)

    def intermediate(
        self, images: Float[Tensor, "batch channel height width"], layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Return features after the last `layers` blocks, or after those of the given indices, in the order given."""
        wanted = chosen_layers(layers, count=self.config.depth)
        tokens, grid = self._embed(images, None)
        found = {}
        for index, (block, rotation) in zip(range(max(wanted) + 1), self._steps(grid)):
            tokens = block(tokens, rotation)
            if index in wanted:
                found[index] = self._features(tokens, grid, norm=norm, local=False)
        return tuple(found[index] for index in wanted)

    def attention(
        self, images: Float[Tensor, "batch channel height width"], block: int
    ) -> Float[Tensor, "batch head token token"]:
        """Return the attention of one block between all tokens [CLS, registers, patches]; rows sum to 1.

        Raises:
            UserError: if there is no such block.
        """
        chosen_layers([block], count=self.config.depth)
        tokens, grid = self._embed(images, None)
        steps = self._steps(grid)
        for before, rotation in islice(steps, block):
            tokens = before(tokens, rotation)
        chosen, rotation = next(steps)
        return chosen.attn.maps(chosen.norm1(tokens), rotation)

    def _embed(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        patches, grid = self.patch_embed(images)  # [batch, patch, dim]
        if masks is not None:
            patches = self._hidden(patches, masks)
        cls: Tensor = self.cls_token
        if self.pos_embed is not None:
            assert self.config.position != "rope"
            table = position.resized(self.pos_embed, grid, how=self.config.position)  # [1, 1 + patch, dim]
            cls, patches = cls + table[:, :1], patches + table[:, 1:]
        prefix = cls if self.register_tokens is None else torch.cat([cls, self.register_tokens], dim=1)
        return torch.cat([prefix.expand(len(patches), -1, -1), patches], dim=1), grid  # [batch, token, dim]

    def _hidden(self, patches: Tensor, masks: Tensor) -> Tensor:
        if self.mask_token is None:
            raise UserError("masks need a mask token; build the model with mask_token=True")
        if masks.shape != patches.shape[:2]:
            raise UserError(f"masks must have shape {tuple(patches.shape[:2])}, got {tuple(masks.shape)}")
        if masks.dtype != torch.bool:
            raise UserError(f"masks must be bool, True where a patch is hidden, got {masks.dtype}")
        return torch.where(masks[..., None], self.mask_token.to(patches.dtype), patches)

    def _rotations(self, grid: tuple[int, int]) -> Iterator[Rotation | None]:
        if self.rope_embed is None:
            return iter([None] * self.config.depth)
        return self.rope_embed.rotations(grid, prefix=1 + self.config.registers, blocks=self.config.depth)

    def _steps(self, grid: tuple[int, int]) -> Iterator[tuple[Block, Rotation | None]]:
        for block, rotation in zip(self.blocks, self._rotations(grid)):
            assert isinstance(block, Block)
            yield block, rotation

    def _features(self, tokens: Tensor, grid: tuple[int, int], *, norm: bool, local: bool) -> Features:
        prefix = 1 + self.config.registers
        first, patches = tokens[:, :prefix], tokens[:, prefix:]
        own = self.local_cls_norm if local and self.training and self.local_cls_norm is not None else self.cls_norm
        if norm and own is not None:
            first, patches = own(first), self.norm(patches)
        elif norm:
            tokens = self.norm(tokens)
            first, patches = tokens[:, :prefix], tokens[:, prefix:]
        return Features(first[:, 0], first[:, 1:], patches, grid)


def _block(config: Config, index: int) -> Block:
    network = {"mlp": Mlp, "swiglu": SwiGlu}[config.ffn]
    share = 1.0 if config.drop_path_shape == "uniform" else index / max(config.depth - 1, 1)
    return Block(
        config.dim,
        heads=config.heads,
        bias=config.qkv_bias,
        ffn=network(config.dim, config.ffn_hidden),
        layer_scale=config.layer_scale,
        drop_path=config.drop_path * share,
        norm_eps=config.norm_eps,
    )
