"""The vision transformer of DINO (arXiv:2104.14294), DINOv2 (2304.07193, 2309.16588) and DINOv3 (2508.10104).

    patches = W [pixels of a patch]                      (ViT, arXiv:2010.11929, section 3.1, equation 1)
    z0 = [CLS + pos, registers, patches + pos]           (the same; registers: no position)
    z_l = block_l(z_{l-1}, rotation)                     (block.py; with RoPE there is no pos, but a rotation)
    output = norm(z_L)

A small network on small images learns faster when an overlapping convolution comes before the patches
(arXiv:2106.14881): the patch grid then cuts less of what straddles it. None of the published models has one.

Learned positions, instead of RoPE: position.py. Frozen features on a CPU: packed.py. Parameter names are the official
ones of DINOv2 wherever those exist.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from dinokit.core.messages import UserError
from dinokit.core.numbers import above, at_least, between
from dinokit.models.block import Bias, Block, Mlp, SwiGlu
from dinokit.models.features import Built, Features, accepted, chosen_layers, is_recorded
from dinokit.models.init import Style
from dinokit.models.packed import Step, steps
from dinokit.models.position import resized
from dinokit.models.rope import Rope, RopeConfig, Rotation


@dataclass(frozen=True, kw_only=True)
class Config:
    """Architecture and initial values of a vision transformer; models/architecture.py holds the published ones."""

    whole_patches: ClassVar[bool] = True  # a crop is a multiple of the patch size
    batch_norm: ClassVar[bool] = False  # features of an image are its own
    kind: Literal["vit"] = "vit"  # of network: vit, convnext, resnet; or the name of an architecture
    patch_size: int = at_least(1, 16)  # side in pixels
    channels: int = at_least(1, 3)  # of the images
    dim: int = at_least(1, 384)  # width of a token
    depth: int = at_least(1, 12)  # blocks
    heads: int = at_least(1, 6)  # per block; divides dim
    registers: int = at_least(0, 4)  # extra tokens without a position
    stem: int | None = at_least(1, None)  # channels of a convolution before the patches; null: none, as published
    mask_token: bool = True  # a learned vector in place of hidden patches; needed by masked objectives
    ffn: Literal["mlp", "swiglu"] = "mlp"  # feed-forward network of a block
    ffn_hidden: int = at_least(1, 1536)  # its inner width; mlp: usually 4 * dim, swiglu: see architecture.swiglu_hidden
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
    init: Style = "dinov3"  # initial values

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise UserError(f"vit dim {self.dim} is not divisible by {self.heads} heads; change one of them")
        if self.stem is not None and self.patch_size % 2:
            raise UserError(f"vit stem needs an even patch size, got {self.patch_size}")
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

    @property
    def family(self) -> Literal["dino", "dinov2", "dinov3"]:
        """The generation of networks in whose layouts its weights are kept."""
        if self.position == "rope":
            return "dinov3"
        return "dino" if self.layer_scale is None else "dinov2"


class VisionTransformer(Built):
    """Images of any size -> Features."""

    config: Config

    def build(self, config: Config) -> None:
        """Make the parts of the network."""
        norm = partial(nn.LayerNorm, config.dim, eps=config.norm_eps)
        cells = (config.position_grid or 0) ** 2
        network = {"mlp": Mlp, "swiglu": SwiGlu}[config.ffn]
        growth = max(config.depth - 1, 1) if config.drop_path_shape == "linear" else 0  # blocks from none to all of it

        def token(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape, config.dim))

        self.cls_token = token(1, 1)
        self.register_tokens = token(1, config.registers) if config.registers else None
        self.mask_token = token(1) if config.mask_token else None
        self.pos_embed = token(1, 1 + cells) if cells else None
        self.patch_embed = PatchEmbed(
            patch_size=config.patch_size, channels=config.channels, dim=config.dim, stem=config.stem
        )
        self.rope_embed = Rope(config.dim // config.heads, config.rope) if config.position == "rope" else None
        self.blocks = nn.ModuleList(
            Block(
                config.dim,
                heads=config.heads,
                bias=config.qkv_bias,
                ffn=network(config.dim, config.ffn_hidden),
                layer_scale=config.layer_scale,
                drop_path=config.drop_path * (index / growth if growth else 1.0),
                norm_eps=config.norm_eps,
            )
            for index in range(config.depth)
        )
        self.norm = norm()
        self.cls_norm = norm() if config.untie_cls_norm else None
        self.local_cls_norm = norm() if config.untie_local_cls_norm else None

    def forward(
        self,
        images: Float[Tensor, "batch channel height width"],
        *,
        masks: Bool[Tensor, "batch patch"] | None = None,
        local: bool = False,
    ) -> Features:
        """Embed images; patches whose mask is True are replaced by the mask token (their position stays known)."""
        tokens, grid = self._embed(images, masks)
        for block, rotation in zip(self._faster(tokens), self._rotations(grid)):
            tokens = block(tokens, rotation)
        return self._features(tokens, grid, norm=True, local=local)

    def intermediate(
        self, images: Float[Tensor, "batch channel height width"], layers: int | Sequence[int], *, norm: bool = True
    ) -> tuple[Features, ...]:
        """Return features after the last `layers` blocks, or after those of the given indices, in the order given."""
        wanted = chosen_layers(layers, count=self.config.depth)
        tokens, grid = self._embed(images, None)
        found = {}
        for index, block, rotation in zip(range(max(wanted) + 1), self._faster(tokens), self._rotations(grid)):
            tokens = block(tokens, rotation)
            if index in wanted:
                found[index] = self._features(tokens, grid, norm=norm, local=False)
        return tuple(found[index] for index in wanted)

    def attention(
        self, images: Float[Tensor, "batch channel height width"], block: int
    ) -> Float[Tensor, "batch head token token"]:
        """Return how a block attends among [CLS, registers, patches], rows summing to 1; UserError if there is none."""
        chosen_layers([block], count=self.config.depth)
        tokens, grid = self._embed(images, None)
        rotations, chosen = list(self._rotations(grid)), self.blocks[block]
        assert isinstance(chosen, Block)
        for before, rotation in zip(self.blocks[:block], rotations):
            tokens = before(tokens, rotation)
        return chosen.attn.maps(chosen.norm1(tokens), rotations[block])

    def depth_of(self, name: str) -> int:
        """Say where a parameter stands, see `Built`."""
        block = re.match(r"blocks\.(\d+)\.", name)
        return int(block[1]) + 1 if block else self.config.depth + 1 if "norm" in name else 0

    def _embed(self, images: Tensor, masks: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        patches, grid = self.patch_embed(images)  # [batch, patch, dim]
        if masks is not None:
            if self.mask_token is None:
                raise UserError("masks need a mask token; build the model with mask_token=True")
            if masks.shape != patches.shape[:2]:
                raise UserError(f"masks must have shape {tuple(patches.shape[:2])}, got {tuple(masks.shape)}")
            if masks.dtype != torch.bool:
                raise UserError(f"masks must be bool, True where a patch is hidden, got {masks.dtype}")
            patches = torch.where(masks[..., None], self.mask_token.to(patches.dtype), patches)
        cls: Tensor = self.cls_token
        if self.pos_embed is not None:
            assert self.config.position != "rope"
            table = resized(self.pos_embed, grid, how=self.config.position)  # [1, 1 + patch, dim]
            cls, patches = cls + table[:, :1], patches + table[:, 1:]
        prefix = cls if self.register_tokens is None else torch.cat([cls, self.register_tokens], dim=1)
        return torch.cat([prefix.expand(patches.shape[0], -1, -1), patches], dim=1), grid  # [batch, token, dim]

    def _faster(self, tokens: Tensor) -> Iterable[Step]:
        """Return the blocks, or what does the same in less time within `packed`."""
        turned = None if self.rope_embed is None else self.config.rope.dtype
        return steps(self.blocks, tokens, turned=turned)

    def _rotations(self, grid: tuple[int, int]) -> Iterable[Rotation | None]:
        rope, count = self.rope_embed, self.config.depth
        return [None] * count if rope is None else rope.rotations(grid, prefix=1 + self.config.registers, blocks=count)

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


class PatchEmbed(nn.Module):
    """Cut images into `patch_size` x `patch_size` squares and embed each.

    Any height and width, also those that are no multiple of the patch: trailing pixels at the bottom and at the right
    that do not fill a patch are ignored, as in the official convolution.
    """

    def __init__(self, *, patch_size: int, channels: int, dim: int, stem: int | None = None) -> None:
        """Build the map.

        Args:
            stem: channels of a 4 x 4 convolution with stride 2 in front; the patch size is then even.
        """
        super().__init__()
        self.patch_size = patch_size
        self.channels = channels
        self.stem = None if stem is None else nn.Conv2d(channels, stem, kernel_size=4, stride=2, padding=1)
        side = patch_size if stem is None else patch_size // 2
        self.proj = nn.Conv2d(stem or channels, dim, kernel_size=side, stride=side)

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch patch dim"], tuple[int, int]]:
        """Return the patches, row-major, and their grid (rows, columns).

        A model of one channel sees the luminance of RGB images, as if they had been decoded to gray.

        Raises:
            UserError: if the images have no batch axis, another number of channels, or are smaller than a patch.
        """
        images = accepted(images, channels=self.channels, side=self.patch_size, dtype=self.proj.weight.dtype)
        if self.stem is not None:
            # of more channels windows are larger than what is made of them: cutting takes longer than it saves
            if images.device.type == "cpu" and 16 * self.channels <= self.stem.out_channels and not is_recorded():
                return self._by_products(images, self.stem)
            images = F.gelu(self.stem(images))  # [batch, stem, height / 2, width / 2]
        if is_recorded():  # a convolution drops what fills no patch at every size; a reshape was recorded without any
            maps = self.proj(images)  # [batch, dim, rows, columns]
            return maps.flatten(2).transpose(1, 2), (maps.shape[2], maps.shape[3])
        side = self.proj.kernel_size[0]
        grid = images.shape[2] // side, images.shape[3] // side
        # a convolution whose windows do not overlap is one matrix product, and on a CPU a faster one
        whole = images[..., : grid[0] * side, : grid[1] * side]
        squares = whole.reshape(whole.shape[0], -1, grid[0], side, grid[1], side).permute(0, 2, 4, 1, 3, 5)
        patches = squares.flatten(3).flatten(1, 2)  # [batch, patch, channel * side * side]
        return F.linear(patches, self.proj.weight.flatten(1), self.proj.bias), grid

    def _by_products(self, images: Tensor, stem: nn.Conv2d) -> tuple[Float[Tensor, "batch patch dim"], tuple[int, int]]:
        """Do the same by two products, of windows that are cut patch by patch.

        What a convolution makes, many times the image, would have to be put into that order, and its gradient back.
        """
        if torch.is_autocast_enabled("cpu"):
            images = images.to(torch.get_autocast_dtype("cpu"))
        side = self.patch_size // 2
        grid = images.shape[2] // 2 // side, images.shape[3] // 2 // side
        rows, columns = grid[0] * side, grid[1] * side
        blocks = F.pad(images, (1, 1, 1, 1))[:, :, : 2 * rows + 2, : 2 * columns + 2]
        blocks = torch.unflatten(torch.unflatten(blocks, 3, (-1, 2)), 2, (-1, 2))
        blocks = blocks.permute(0, 2, 4, 3, 5, 1).flatten(3)  # [batch, rows + 1, columns + 1, 2 * 2 * channel]
        windows = blocks.unfold(1, 2, 1).unfold(2, 2, 1)  # [batch, rows, columns, 2 * 2 * channel, 2, 2]
        windows = torch.unflatten(torch.unflatten(windows, 2, (-1, side)), 1, (-1, side))
        windows = (
            windows.permute(0, 1, 3, 2, 4, 6, 7, 5).flatten(5).flatten(1, 4)
        )  # [batch, patch * side * side, 2 * 2 * 2 * 2 * channel]
        kernel = torch.unflatten(torch.unflatten(stem.weight, 3, (2, 2)), 2, (2, 2))
        kernel = kernel.permute(0, 2, 4, 3, 5, 1).flatten(1)
        pixels = F.gelu(F.linear(windows, kernel, stem.bias))
        patches = torch.unflatten(pixels, 1, (-1, side * side)).flatten(2)  # [batch, patch, side * side * stem]
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(patches, weight, self.proj.bias), grid
