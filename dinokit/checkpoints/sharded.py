"""A training state of which every rank writes its own part, read by any number of ranks (torch.distributed.checkpoint).

    state/shard-0000N-...safetensors   what rank N - 1 holds; the header says which rows
    state/index.json                   name -> shape of everything, written when all parts are there

Nothing is pickled: reading a foreign checkpoint can yield wrong numbers or an error, but never run code.
"""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dinokit.core import dist
from dinokit.core.files import write_json
from dinokit.core.messages import is_main

INDEX = "index.json"

Layout = Callable[[str, torch.Size, torch.dtype], Tensor]  # name, shape, dtype -> the tensor that it is read into


def whole(_name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """Be the layout of a process that wants everything."""
    return torch.empty(shape, dtype=dtype)


def is_sharded(state: Mapping[str, Tensor]) -> bool:
    """Tell whether ranks hold different parts of a state."""
    return any(map(dist.is_shard, state.values()))


def save(state: Mapping[str, Tensor], folder: Path) -> None:
    """Write each rank's part into an empty folder; all call together, and all raise OSError if one cannot write."""
    # here and below: they take a second, and most commands never need them
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save as write

    dist.barrier()
    try:
        write(dict(state), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except CheckpointException as error:  # not an Exception
        raise OSError(_reason(error)) from None
    if is_main():
        write_json(folder / INDEX, {name: list(value.shape) for name, value in state.items()})


def contents(folder: Path) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Return shape and type of every tensor; only headers are read.

    Raises:
        OSError, SafetensorError, ValueError: if a part is missing, cut short, or not of this kind.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    try:
        found = HuggingFaceStorageReader(str(folder)).read_metadata().state_dict_metadata
        stored = {name: entry for name, entry in found.items() if isinstance(entry, TensorStorageMetadata)}
        shapes = {name: torch.Size(shape) for name, shape in index.items()}
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{folder.name} is not of this kind: {error!r}") from error
    for name, shape in shapes.items():
        held = sum(chunk.sizes.numel() for chunk in stored[name].chunks) if name in stored else -1
        if held != shape.numel():
            raise ValueError(f"{folder.name} lacks a part: not all of {name} is there")
    return {name: (shape, stored[name].properties.dtype) for name, shape in shapes.items()}


def load(folder: Path, layout: Layout) -> dict[str, Tensor]:
    """Read a state into what `layout` makes for each tensor, each rank alone its rows; raises as `contents` does."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load as read

    state = {name: layout(name, shape, dtype) for name, (shape, dtype) in contents(folder).items()}
    try:
        with warnings.catch_warnings(action="ignore", category=UserWarning):  # that no process group exists
            read(state, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=True)
    except CheckpointException as error:
        raise ValueError(_reason(error)) from None
    return state


def _reason(error: BaseException) -> str:
    """Take the first failure of any rank out of torch's report on all of them."""
    failures = getattr(error, "failures", {})
    return next((f"rank {rank}: {failure[0]}" for rank, failure in failures.items()), str(error))
