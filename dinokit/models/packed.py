"""The blocks of a frozen transformer, its weights in the order in which a CPU multiplies them (MKL, on x86).

    x = x + W_o attention(W_qkv norm1(x));   x = x + W_2 ffn(norm2(x))

An ordinary product brings its weights into that order every time, and writes its bias over the result before: together
a fifth of its time for the few hundred tokens of an image (docs/log.md). Here it is done once, biases are added apart,
and what is linear goes into the weights, exactly up to rounding: LayerScale into W_o and W_2; 1 / sqrt(head_dim) into
the queries; the bias of the values, of which every token gets a mean, through W_o into its bias. Channels of queries
and keys are put so that a rotation is one product of complex numbers. Images go through a block one by one, so that
what it makes of one stays in the cache.

One set of packed weights, for images of one number of tokens, lies beside the weights, as long as these stay the same.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from dinokit.core import device as devices
from dinokit.models.block import Attention, Block, LayerScale, Mlp, SwiGlu
from dinokit.models.features import is_recorded
from dinokit.models.rope import Rotation

# Of fewer tokens, or narrower ones, packing takes as long as it saves where every image has another size
TOKENS, WIDTH = 128, 192
SHARE = 8  # of this machine's memory packed weights take at most one part of so many
SAMPLES = 16  # numbers of every tensor that are compared, besides its version

Step = Callable[[Tensor, Rotation | None], Tensor]  # a block: tokens -> tokens


class Packed:
    """Keeps packed blocks, whose result depends on images and weights and not on what was computed before."""

    def __init__(self) -> None:
        self._steps: list[_Block] = []
        self._tokens = 0
        self._weights: _Weights | None = None

    def __deepcopy__(self, _: Any) -> "Packed":
        return Packed()  # of another network

    def __reduce__(self) -> tuple[type["Packed"], tuple[()]]:
        return Packed, ()  # is no part of what is saved

    def steps(
        self, blocks: nn.ModuleList, tokens: Float[Tensor, "batch token dim"], *, turned: str | None
    ) -> Iterable[Step]:
        """Return what to put the tokens through: packed blocks where these are faster, else the blocks themselves.

        Args:
            turned: dtype of the rotation of queries and keys; None without one.
        """
        count = tokens.shape[1]
        if count < TOKENS or tokens.shape[2] < WIDTH or turned not in (None, "float32") or not _is_plain(tokens):
            return blocks
        if self._weights is None or not self._weights.are_same():
            self._weights, self._steps = None, []
            found = _Weights(blocks)
            if not found.fit:
                return blocks
            self._weights = found
        if not self._steps or count != self._tokens:
            self._steps = []  # of another size: gone before the next are made
            rotated = turned is not None
            self._steps = [_Block(each, count, rotated=rotated) for each in blocks if isinstance(each, Block)]
            self._tokens = count
        return self._steps


def _is_plain(tokens: Tensor) -> bool:
    """Tell whether numbers alone are wanted of these tokens, in float32, on a CPU that has the product."""
    if torch.compiler.is_compiling() or is_recorded() or type(tokens) is not Tensor:
        return False
    if tokens.device.type != "cpu" or tokens.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        return False
    if torch.is_grad_enabled() and tokens.requires_grad:
        return False
    watched = is_in_torch_dispatch_mode() or torch._C._functorch.peek_interpreter_stack() is not None
    if watched or forward_ad.unpack_dual(tokens).tangent is not None:  # type: ignore[no-untyped-call]
        return False
    return is_supported()


def is_supported() -> bool:
    """Tell whether torch has the product of packed weights, which it has beside MKL."""
    backends: Any = torch.backends
    return bool(backends.mkl.is_available() and backends.mkldnn.is_available())


class _Weights:
    """What packed blocks were made of: the blocks' modules as they are built, and their frozen tensors."""

    def __init__(self, blocks: nn.ModuleList) -> None:
        self._modules = [(module, dict(module._modules)) for module in blocks.modules()]
        found = [
            (owner, name, tensor)
            for module, _ in self._modules
            for owner in (module._parameters, module._buffers)
            for name, tensor in owner.items()
            if tensor is not None
        ]
        size = sum(tensor.nbytes for _, _, tensor in found)
        self.fit = (
            all(isinstance(block, Block) and _is_as_built(block) for block in blocks)
            and all(_is_frozen(tensor) for _, _, tensor in found)
            and size * SHARE <= devices.memory(torch.device("cpu"))
        )
        if self.fit:
            self._tensors = [(owner, name, each, each._version, each.data_ptr()) for owner, name, each in found]
            # who writes through .data leaves no trace in the version
            self._views = [each.detach().view(-1)[:: -(-each.numel() // SAMPLES)] for _, _, each in found]
            self._numbers = torch.cat(self._views)
            self.fit = self.are_same()

    def are_same(self) -> bool:
        """Tell whether the blocks still have these modules, nobody looks into them, and no number was written."""
        for module, children in self._modules:
            if module.training or module._modules != children or "forward" in module.__dict__:
                return False
            if module._forward_hooks or module._forward_pre_hooks or module._compiled_call_impl is not None:
                return False
        for owner, name, tensor, version, place in self._tensors:
            if owner.get(name) is not tensor or tensor.requires_grad:
                return False
            if tensor._version != version or tensor.data_ptr() != place:
                return False
        return torch.equal(torch.cat(self._views), self._numbers)


def _is_frozen(tensor: Tensor) -> bool:
    plain = type(tensor) in (Tensor, nn.Parameter) and tensor.is_contiguous() and not tensor.is_inference()
    return plain and tensor.device.type == "cpu" and tensor.dtype == torch.float32 and not tensor.requires_grad


def _is_as_built(block: Block) -> bool:
    """Tell whether every part is of the very type that `Block` makes, so that nothing else is computed in it."""
    linear: tuple[nn.Module, ...] = (block.attn.qkv, block.attn.proj)
    if type(block) is not Block or type(block.attn) is not Attention:
        return False
    if type(block.mlp) is Mlp:
        linear += (block.mlp.fc1, block.mlp.fc2)
    elif type(block.mlp) is SwiGlu:
        linear += (block.mlp.w1, block.mlp.w2, block.mlp.w3)
    else:
        return False
    norms, scales = (block.norm1, block.norm2), (block.ls1, block.ls2)
    return (
        all(type(each) is nn.Linear for each in linear)
        and all(type(each) is nn.LayerNorm for each in norms)
        and all(type(each) in (nn.Identity, LayerScale) for each in scales)
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

    def __init__(self, block: Block, rows: int, *, rotated: bool) -> None:
        self._norms, self._heads = (block.norm1, block.norm2), block.attn.heads
        dim, heads = block.attn.qkv.in_features, self._heads
        found = block.attn.bias_of_roles()
        bias = torch.zeros(3 * dim, device="cpu") if found is None else found.clone()
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
        for image, out in zip(tokens, found):
            mixed = self._proj(self._attend(_normed(image, self._norms[0]), turn))  # [token, dim]
            torch.add(image, mixed, out=out).add_(self._proj_bias)
            out.add_(self._outer(self._widen(_normed(out, self._norms[1])))).add_(self._outer_bias)
        return found

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
