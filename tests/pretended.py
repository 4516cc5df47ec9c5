"""A GPU that is none: tensors that say they are elsewhere, compute on the CPU, and refuse what a GPU would.

Refused are operations on tensors of both sides (but for numbers, copies and indices on the CPU), generators of the CPU,
and turning a tensor into an array. What is written for it cannot find what a real GPU does differently, such as its
order of sums; it finds the tensor that was forgotten on the CPU. It is torch's device for backends written in Python
and stays for the rest of the process, so whoever uses it has a process of its own: python -m tests.pretended CHECK
"""

import sys
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

PRETENDED = "pretended"
# may take indices, or what is copied, from the CPU
_FROM_CPU = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::copy_",
    "aten::_to_copy",
}


class Module(backend_registration._DummyBackendModule):
    """What torch asks a device's module."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


class There(Tensor):
    """A tensor that says it is elsewhere; `here` holds its numbers."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor) -> "There":
        layout: Any = {"strides": here.stride(), "storage_offset": here.storage_offset(), "dtype": here.dtype}
        made = Tensor._make_wrapper_subclass(cls, here.size(), **layout, device=torch.device(PRETENDED, 0))
        made.here = here
        return made

    def __init__(self, here: Tensor) -> None: ...

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
        return There(torch.tensor(data, dtype=dtype or self.dtype))

    def tolist(self) -> Any:
        return self.here.detach().tolist()

    def numpy(self, *, force: bool = False) -> numpy.ndarray:
        if not force:
            raise TypeError("can't convert a tensor of another device to numpy")
        return self.here.detach().numpy()


class Pretending(TorchDispatchMode):
    """Makes tensors of the device while the body runs."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, leaves = func.name().partition(".")[0], tree_leaves((args, kwargs))
    tensors = [each for each in leaves if isinstance(each, Tensor)]
    there = [each for each in tensors if isinstance(each, There)]
    asked = kwargs.get("device")
    elsewhere = bool(there) if asked is None else torch.device(asked).type == PRETENDED
    elsewhere = isinstance(args[0], There) if name == "aten::copy_" else elsewhere
    if there and any(each.ndim for each in tensors if not isinstance(each, There)):
        own = name in _FROM_CPU and (isinstance(args[0], There) or "copy" in name)
        assert own, f"{name} of tensors of both devices: {[tuple(each.shape) for each in tensors]}"
    assert not (elsewhere and any(isinstance(each, torch.Generator) for each in leaves)), f"{name} draws on the CPU"
    given = {**kwargs, **({} if asked is None else {"device": torch.device("cpu")})}
    args, given = tree_map(lambda each: each.here if isinstance(each, There) else each, (args, given))
    known = {id(each.here): each for each in there}

    def back(found: Any) -> Any:
        if not isinstance(found, Tensor):
            return found
        return known[id(found)] if id(found) in known else There(found) if elsewhere else found

    return tree_map(back, func(*args, **given))


def main() -> None:
    """Run a check of benchmarks/gpu.py; fail if it finds a fault."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
    backend_registration._setup_privateuseone_for_python_backend(PRETENDED, backend_module=Module())
    torch.inference_mode = torch.no_grad  # a tensor of this kind cannot be made in it
    import gpu

    with Pretending():
        rows = [
            row for name in sys.argv[1:] for row in gpu.BUDGETS[name][0](gpu.Place(torch.device(PRETENDED, 0), True))
        ]
    for row in rows:
        print(row)
    assert rows
    assert not any(row.fault for row in rows)


if __name__ == "__main__":
    main()
