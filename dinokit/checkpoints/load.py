"""Open a trained backbone: a run folder, one of its checkpoints, or a weights file.

A file of ours carries its architecture and its pixel statistics in the safetensors header; any other is recognised by
its keys and the config.json beside it (recognise.py). Only safetensors and `torch.load(weights_only=True)` are used, so
no file can run code.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinokit.checkpoints import keymap, official
from dinokit.checkpoints.json_files import beside
from dinokit.checkpoints.recognise import recognise
from dinokit.checkpoints.store import MODEL
from dinokit.config import from_plain, to_plain
from dinokit.core.errors import UserError, unknown_name
from dinokit.core.pixels import Pixels
from dinokit.models.architecture import KINDS, Architecture, Network, build, kind
from dinokit.models.features import Backbone

FORMAT = "dinokit"
INDEX = f"{MODEL}.index.json"  # names the parts of a large model of transformers


def header(architecture: Architecture, pixels: Pixels, *, step: int) -> dict[str, str]:
    """Return what a weights file says of itself, so that it can be loaded on its own."""
    about = {
        "kind": kind(architecture),
        "architecture": to_plain(architecture),
        "pixels": to_plain(pixels),
        "step": step,
    }
    return {FORMAT: json.dumps(about)}  # one entry: safetensors writes several in random order


def load(path: str | Path, *, exact_periods: bool = False) -> Backbone:
    """Load a backbone, frozen and in evaluation mode, on the CPU.

    Args:
        path: a run folder, a folder RUN/checkpoints/STEP, a .safetensors or .pth file, or a folder
            with model.safetensors and config.json; ours, official, of Hugging Face transformers or of timm.
        exact_periods: compute the RoPE periods of a DINOv3 transformer, as transformers and timm do, instead of taking
            those that are stored. Official files store them rounded to bfloat16, by up to 0.3 %.

    Raises:
        UserError: if there is nothing to load, or it is not what it should be; the message lists what did not fit.
    """
    if not isinstance(path, str | Path):
        raise UserError(f"expected the path of a run folder or a weights file, got {path!r}")
    file = _weights_file(Path(path))
    state, about = _read(file)
    if FORMAT in about:
        architecture, pixels = _described(about[FORMAT], file)
    else:
        architecture, state, pixels = recognise(state, beside(file), file=str(file))
    backbone = _built(architecture, state, file)
    if exact_periods:
        _compute_periods(backbone, file)
    backbone.pixels = pixels
    return backbone.eval().requires_grad_(False)


def _built(architecture: Architecture, state: Mapping[str, Tensor], file: Path) -> Network:
    """Build the network, first without memory: a damaged description must not ask for more than the weights hold."""
    if architecture.depth > len(state):  # a block has several tensors
        raise UserError(f"{file} describes {architecture.depth} blocks and holds {len(state)} tensors; it is damaged")
    try:
        with torch.device("meta"):
            outline = build(architecture)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise UserError(f"{file} describes a network that cannot exist: {str(error).splitlines()[0]}") from error
    official.check_fit(outline, state, file=str(file))
    backbone = build(architecture)
    official.load_strictly(backbone, state, file=str(file))
    return backbone


def _compute_periods(backbone: Network, file: Path) -> None:
    found = keymap.periods(backbone.config, None)
    if not found:
        raise UserError(f"{file} holds a network without RoPE; there are no periods to compute")
    keymap.rounding(backbone.config, backbone.state_dict())  # refuses those that are of another base
    for name, value in found.items():
        backbone.get_buffer(name).copy_(value)


def _described(about: str, file: Path) -> tuple[Architecture, Pixels]:
    try:
        described = json.loads(about)
        name = described.get("kind", "vit")  # files of transformers said no kind before there were others
        if name not in KINDS:
            raise unknown_name("kind of architecture", name, list(KINDS))
        return from_plain(KINDS[name], described["architecture"]), from_plain(Pixels, described["pixels"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged or of another version of dinokit: its header says {error}") from error


def _weights_file(path: Path) -> Path:
    if path.is_dir():
        for name in (MODEL, INDEX, "pytorch_model.bin"):
            if (path / name).exists():
                return path / name
        raise UserError(f"{path} holds no {MODEL}; expected a run folder, a checkpoint folder or a weights file")
    if not path.exists():
        raise UserError(f"no model at {path}; expected a run folder, a checkpoint folder or a weights file")
    return path


def _read(file: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    if file.name == INDEX:
        return {name: value for part in _parts(file) for name, value in _read(part)[0].items()}, {}
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                names = opened.keys()
                return {name: opened.get_tensor(name) for name in names}, dict(opened.metadata() or {})
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises almost anything on bytes that are no pickle
        raise UserError(
            f"{file} is not a readable weights file ({_reason(error)}); expected .safetensors or a plain .pth"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{file} holds a {type(state).__name__}; expected weights by name, a state dict")
    return state, {}


def _parts(index: Path) -> list[Path]:
    """List the files that an index names, all beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        paths = [index.parent / Path(name).name for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged: expected a weight_map from keys to file names") from error
    missing = [path.name for path in paths if path.suffix != ".safetensors" or not path.is_file()]
    if missing:
        raise UserError(f"{index} names parts that are not there: {', '.join(missing)}")
    return paths


def _reason(error: Exception) -> str:
    """Say what is wrong in our words where PyTorch's advise to load the file unsafely."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds {refused[1]}, and loading that could run code"
    if isinstance(error, OSError | SafetensorError) and str(error):
        return str(error).splitlines()[0]
    return "its content is not that of a weights file"
