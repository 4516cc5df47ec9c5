"""The blocks of a frozen transformer, its weights in the order in which a CPU multiplies them (MKL, on x86).

    x = x + W_o attention(W_qkv norm1(x));   x = x + W_2 ffn(norm2(x))

An ordinary product brings its weights into that order every time, and writes its bias over the result before: together
a fifth of its time for the few hundred tokens of an image (docs/log.md). Here it is done once, biases are added apart,
and what is linear goes into the weights, exactly up to rounding: LayerScale into W_o and W_2; 1 / sqrt(head_dim) into
the queries; the bias of the values, of which every token gets a mean, through W_o into its bias. Channels of queries
and keys are put so that a rotation is one product of complex numbers. Images go through a block one by one, so that
what it makes of one stays in the cache; of several, each thread takes as many as the other and waits for none.

Packed weights are a second copy, for images of one number of tokens, made anew for another. Whether the first copy was
written since cannot be told for certain, so they are kept for a stretch of code only, `with packed(network):`, whose
author answers for the network. Everywhere else the blocks themselves are computed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dinokit.core import device as devices
from dinokit.models.block import Attention, Block, LayerScale, Mlp, SwiGlu
from dinokit.models.features import is_recorded
from dinokit.models.rope import Rotation

# Of fewer tokens, or narrower ones, packing takes as long as it saves where every image has another size
TOKENS, WIDTH = 128, 192
THREADS = 2  # of more, images one by one would leave some idle
SHARE = 8  # of this machine's memory packed weights take at most one part of so many
PARTS = (Block, Attention, Mlp, SwiGlu, LayerScale, nn.Linear, nn.LayerNorm, nn.Identity)
FORWARDS: dict[type[nn.Module], Any] = {kind: kind.forward for kind in PARTS}  # what is computed here in their place

Step = Callable[[Tensor, Rotation | None], Tensor]  # a block: tokens -> tokens


class _Kept:
    """Packed blocks of the images that were seen last: their number of tokens, and the blocks."""

    made: tuple[int, list[Step]] = (0, [])  # always replaced as a whole

    def __init__(self, team: Executor) -> None:
        self.team = team  # threads of one core each


# lists of blocks that may be packed in this thread; a stretch empties its own, for contexts are copied
_open: ContextVar[dict[nn.Module, _Kept] | None] = ContextVar("packed", default=None)


@contextmanager
def packed(network: nn.Module) -> Iterator[None]:
    """Let transformers in a network use packed weights where that pays, in this thread and for a while.

    It pays without gradients, in float32, on one or two threads of a CPU. Whoever opens this owns the network until the
    end: nobody writes weights, exchanges or hooks parts of its blocks, or transforms what is computed (torch.func).
    """
    outer = _open.get() or {}
    lists = [each for each in network.modules() if isinstance(each, nn.ModuleList)]
    with devices.threads(THREADS) as team:
        inner = outer | {each: outer.get(each) or _Kept(team) for each in lists}
        _open.set(inner)
        try:
            yield
        finally:
            inner.clear()
            _open.set(outer)


def steps(blocks: nn.ModuleList, tokens: Float[Tensor, "batch token dim"], *, turned: str | None) -> Iterable[Step]:
    """Return what to put the tokens through: packed blocks within `packed` where these are faster, else the blocks.

    Args:
        turned: dtype of the rotation of queries and keys; None without one.
    """
    kept = None if torch.compiler.is_compiling() else (_open.get() or {}).get(blocks)
    if kept is None or turned not in (None, "float32") or not _is_plain(tokens):
        return blocks
    count, made = tokens.shape[1], kept.made
    if made[0] != count:
        made = kept.made = (0, [])  # of another size: gone before the next are made
        if count < TOKENS or tokens.shape[2] < WIDTH or not _is_as_built(blocks):
            return blocks
        rotated = turned is not None
        plain = (each for each in blocks if isinstance(each, Block))
        made = kept.made = (count, [_Block(each, count, rotated=rotated, team=kept.team) for each in plain])
    return made[1]


def _is_plain(tokens: Tensor) -> bool:
    """Tell whether numbers alone are wanted of these tokens, in float32, on a CPU that has the product."""
    watched = is_in_torch_dispatch_mode() or _has_any_global_hook()  # type: ignore[no-untyped-call]
    if watched or is_recorded() or torch.is_grad_enabled():
        return False
    if type(tokens) is not Tensor or tokens.device.type != "cpu" or tokens.dtype != torch.float32:
        return False
    return not torch.is_autocast_enabled("cpu") and torch.get_num_threads() <= THREADS and is_supported()


def is_supported() -> bool:
    """Tell whether torch has the product of packed weights, which it has beside MKL."""
    backends: Any = torch.backends
    return bool(backends.mkl.is_available() and backends.mkldnn.is_available())


def _is_as_built(blocks: nn.ModuleList) -> bool:
    """Tell whether the blocks compute what `Block` says and nothing else, from plain tensors, and may be held twice."""
    for module in (module for block in blocks for module in block.modules()):
        kind = type(module)
        if FORWARDS.get(kind) is not kind.forward or "forward" in module.__dict__ or module.training:
            return False
        if module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl is not None:
            return False
    tensors = [*blocks.parameters(), *blocks.buffers()]
    plain = all(type(each) in (Tensor, nn.Parameter) and each.dtype == torch.float32 for each in tensors)
    small = sum(each.nbytes for each in tensors) * SHARE <= devices.memory(torch.device("cpu"))
    return plain and small and all(_has_its_parts(block) for block in blocks)


def _has_its_parts(block: nn.Module) -> bool:
    if type(block) is not Block or type(block.attn) is not Attention or type(block.mlp) not in (Mlp, SwiGlu):
        return False
    biased = [block.attn.proj, *block.mlp.children()]
    return (
        all(type(each) is nn.Linear for each in (block.attn.qkv, *biased))
        and all(each.bias is not None for each in biased)
        and all(type(each) is nn.LayerNorm for each in (block.norm1, block.norm2))
        and all(type(each) in (nn.Identity, LayerScale) for each in (block.ls1, block.ls2))
    )


class _Product:
    """x W^T for a fixed number of rows."""

    def __init__(self, weight: Float[Tensor, "out_dim in_dim"], rows: int) -> None:
        self._rows = rows
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), rows)
        self._shape = weight.new_zeros(()).expand(weight.shape)  # of the weights no more than the shape is asked

    def __call__(self, vectors: Float[Tensor, "token in_dim"]) -> Float[Tensor, "token out_dim"]:
        assert len(vectors) == self._rows
        found: Tensor = torch.ops.mkl._mkl_linear(vectors, self._packed, self._shape, None, self._rows)
        return found


class _Block:
    """A block, packed; see the module."""

    def __init__(self, block: Block, rows: int, *, rotated: bool, team: Executor) -> None:
        self._norms, self._heads, self._team = (block.norm1, block.norm2), block.attn.heads, team
        dim, heads = block.attn.qkv.in_features, self._heads
        found = block.attn.bias_of_roles()
        bias = block.attn.qkv.weight.new_zeros(3 * dim) if found is None else found.clone()
        bias = torch.unflatten(bias, 0, (3, heads, -1))  # [role, head, head_dim]
        weight = torch.unflatten(block.attn.qkv.weight, 0, (3, heads, -1)).clone()  # [role, head, head_dim, dim]
        for each in (weight, bias):
            each[0] *= (dim // heads) ** -0.5
            if rotated:  # a_0, a_1, ..., b_0, b_1, ... -> a_0, b_0, a_1, b_1, ...
                each[:2] = torch.unflatten(each[:2], 2, (2, -1)).transpose(2, 3).flatten(2, 3)
        # a constant added to every key changes no softmax, unless it is rotated with the keys
        self._span = 2 * dim if rotated and bool(bias[1].any()) else dim
        self._bias = bias.flatten()[: self._span]
        self._qkv = _Product(weight.flatten(0, 2), rows)
        self._proj, self._proj_bias = _scaled(block.attn.proj, block.ls1, rows, of_all=bias[2].flatten())
        if isinstance(block.mlp, Mlp):
            inner, outer = [block.mlp.fc1], block.mlp.fc2
        else:
            assert isinstance(block.mlp, SwiGlu)
            inner, outer = [block.mlp.w1, block.mlp.w2], block.mlp.w3
        self._inner = [(_Product(each.weight, rows), each.bias) for each in inner]
        self._outer, self._outer_bias = _scaled(outer, block.ls2, rows)

    def __call__(
        self, tokens: Float[Tensor, "batch token dim"], rotation: Rotation | None
    ) -> Float[Tensor, "batch token dim"]:
        """Do what `Block` does."""
        turn = None
        if rotation is not None:
            half = rotation.cos.shape[1] // 2
            turn = torch.complex(rotation.cos[:, :half], rotation.sin[:, half:])  # [token, head_dim / 2]
        found = torch.empty_like(tokens)
        images = list(zip(tokens, found, strict=True))
        shared = 0 if torch.get_num_threads() == 1 else len(images) - len(images) % THREADS
        if shared:
            parts = (images[first:shared:THREADS] for first in range(THREADS))
            list(self._team.map(partial(self._put, turn=turn), parts))
        self._put(images[shared:], turn=turn)  # by all threads together
        return found

    @torch.inference_mode()  # a thread of the team knows nothing of the region of the one that called
    def _put(self, images: Sequence[tuple[Tensor, Tensor]], *, turn: Tensor | None) -> None:
        """Put images [token, dim] through the block, each into what stands beside it."""
        for image, out in images:
            mixed = self._proj(self._attend(_normed(image, self._norms[0]), turn))  # [token, dim]
            torch.add(image, mixed, out=out).add_(self._proj_bias)
            out.add_(self._outer(self._widen(_normed(out, self._norms[1])))).add_(self._outer_bias)

    def _attend(self, tokens: Tensor, turn: Tensor | None) -> Tensor:
        count, dim = tokens.shape
        roles = self._qkv(tokens)  # [token, 3 * dim]
        roles[:, : self._span] += self._bias
        pairs = roles[:, : 2 * dim].view(count, 2 * self._heads, -1).transpose(0, 1)  # [2 * head, token, head_dim]
        if turn is not None:
            pairs = torch.view_as_real(torch.view_as_complex(torch.unflatten(pairs, -1, (-1, 2))) * turn).flatten(2)
        values = roles[:, 2 * dim :].view(count, self._heads, -1).transpose(0, 1)  # [head, token, head_dim]
        queries, keys = pairs[None, : self._heads], pairs[None, self._heads :]
        found = F.scaled_dot_product_attention(queries, keys, values[None], scale=1.0)
        return found[0].transpose(0, 1).reshape(count, dim)

    def _widen(self, tokens: Tensor) -> Tensor:
        first, *second = [product(tokens).add_(bias) for product, bias in self._inner]  # [token, hidden]
        if not second:
            gelu: Tensor = torch.ops.aten.gelu_(first)
            return gelu
        return F.silu(first, inplace=True).mul_(second[0])


def _scaled(
    linear: nn.Linear, scale: nn.Module, rows: int, *, of_all: Tensor | None = None
) -> tuple[_Product, Float[Tensor, " dim"]]:
    """Pack a projection and the LayerScale behind it; its bias has also what it makes of a vector that all get."""
    weight: Tensor = linear.weight
    bias: Tensor = linear.bias
    if of_all is not None:
        bias = bias + weight @ of_all
    if isinstance(scale, LayerScale):
        weight, bias = weight * scale.gamma[:, None], bias * scale.gamma
    return _Product(weight, rows), bias


def _normed(tokens: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
