"""What a computation takes, found by running it on torch's meta device, whose tensors have shapes and no numbers.

The code that runs is the one that is planned, so there is nothing to be kept in step with it. Operations are two per
multiplication and addition of matrix products, convolutions and attention; what is alive at a time is what a real pass
holds (tests/planning/test_detection.py). Attention alone is stood in for: the device would take the kernel that makes
all scores, where a CPU or a GPU takes one that keeps its inputs, its result and a number of every query.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count


@dataclass
class Taken:
    """What was made while it was traced."""

    operations: float = 0.0
    alive: int = 0  # bytes
    peak: int = 0  # bytes that were alive at a time
    largest: int = 0  # bytes of one tensor


@contextmanager
def traced(*, rows: int = 0) -> Iterator[Taken]:
    """Count what is done and made in the body, of numbers or none; what was there before does not count.

    Args:
        rows: how many places of a tensor without numbers are taken to be none of zero, wherever it is asked which.
    """
    taken = Taken()
    with _Counter(taken, rows), _without_scores(taken):
        yield taken


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, and the bytes of what is made until it is gone."""

    def __init__(self, taken: Taken, rows: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.taken, self.rows = taken, rows
        self.known: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Any, _: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        for each in tree_leaves((arguments, named)):
            if isinstance(each, Tensor):
                self._note(each.untyped_storage(), made=False)
        if function is _ATEN.nonzero.default and arguments[0].is_meta:
            made = arguments[0].new_empty(self.rows, arguments[0].ndim, dtype=torch.int64)
        else:
            made = function(*arguments, **(named or {}))
        count = _COUNTS.get(function._overloadpacket)
        if count is not None:
            self.taken.operations += count(*arguments, **(named or {}), out_val=made)
        for each in tree_leaves(made):
            if isinstance(each, Tensor):
                self._note(each.untyped_storage(), made=True)
        return made

    def _note(self, storage: torch.UntypedStorage, *, made: bool) -> None:
        """Count a storage that was not seen before; what was there before takes nothing, nor do views of it."""
        key, size = storage._cdata, storage.nbytes() if made else 0
        if key in self.known:
            return
        self.known[key] = size
        self.taken.alive += size
        self.taken.peak = max(self.taken.peak, self.taken.alive)
        self.taken.largest = max(self.taken.largest, size)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.taken.alive -= self.known.pop(key)


@contextmanager
def _without_scores(taken: Taken) -> Iterator[None]:
    """Put attention that keeps no scores in the place of the meta device's, wherever torch has such a kernel."""
    usual = F.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **named: Any) -> Tensor:
        if not query.is_meta or query.shape[-1] != value.shape[-1]:
            return usual(query, key, value, attn_mask, **named)
        found: Tensor = _Attention.apply(query, key, value, attn_mask, taken)
        return found

    F.scaled_dot_product_attention = attend  # type: ignore[assignment]  # a mode of torch sees only what is around it
    try:
        yield
    finally:
        F.scaled_dot_product_attention = usual


class _Attention(torch.autograd.Function):
    """The shapes of attention: what it returns, keeps and counts."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, taken: Taken) -> Tensor:
        found, sums = query.new_empty(*query.shape[:-1], value.shape[-1]), query.new_empty(query.shape[:-1])
        added = None if mask is None else query.new_empty(mask.shape)  # as numbers, whatever it was
        context.save_for_backward(query, key, value, found, sums, added)
        context.taken = taken
        taken.operations += _attention(query, key, value)
        return found

    @staticmethod
    def backward(context: Any, *gradients: Any) -> Any:
        query, key, value, *_ = context.saved_tensors
        context.taken.operations += _attention_backward(gradients[0], query, key, value)
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None, None


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _attention_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    shapes = [each.shape for each in (gradient, query, key, value)]
    return int(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]


_ATEN = torch.ops.aten
_COUNTS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    # what torch does not count: in place, and a CPU's
    _ATEN.baddbmm_: flop_registry[_ATEN.baddbmm],
    _ATEN._scaled_dot_product_flash_attention_for_cpu: _attention,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
