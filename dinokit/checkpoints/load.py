"""Open a trained backbone: a run folder, one of its checkpoints, a weights file, or a model by name.

A file of ours carries its architecture and its pixel statistics in the safetensors header; any other is recognised by
its keys and the config.json beside it (recognise.py), and what none of them says is assumed, in one line. Only
safetensors and `torch.load(weights_only=True)` are used, so no file can run code: besides tensors and plain values a
pickle may hold the Namespace of arguments, the numbers and arrays of numpy and the paths that DINO's and MAE's own
scripts save.
"""

import argparse
import codecs
import json
import os
import pathlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dinokit import peers
from dinokit.checkpoints import hub
from dinokit.checkpoints.layouts import names, recognise
from dinokit.checkpoints.store import FORMAT, MODEL
from dinokit.config import from_plain
from dinokit.core.files import read_json
from dinokit.core.messages import UserError, info
from dinokit.images.intensity import Pixels
from dinokit.models.architecture import Architecture, Network, build, is_a, nearest, outline
from dinokit.models.architecture import described as architecture_of
from dinokit.models.channels import inflated
from dinokit.models.features import Backbone

INDEX = f"{MODEL}.index.json"  # names the parts of a large model of transformers


class NumpyArray:
    """Stands for an array beside the weights, which is not read: numpy itself would take addresses from a pickle."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# what a pickle may hold besides tensors, also as other versions name it: none of these does anything when it is made
_PATHS = {"PosixPath": pathlib.PurePosixPath, "WindowsPath": pathlib.PureWindowsPath}
PLAIN: list[Any] = [
    argparse.Namespace,
    *((kind, f"{module}.{name}") for name, kind in _PATHS.items() for module in ("pathlib", "pathlib._local")),
    *_PATHS.values(),
    *((numpy.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    codecs.encode,  # of the bytes of a scalar
    numpy.dtype,
    *{type(numpy.dtype(code)) for code in "?bBhHiIlLqQefdFDgGSUMm"},
    NumpyArray,
    *((NumpyArray, f"numpy.{name}multiarray._reconstruct") for name in ("core.", "_core.")),
    (NumpyArray, "numpy.ndarray"),
    (lambda *_: {}, "collections.defaultdict"),
    *(list, dict, int, float, set),  # which make its values
]


def load(
    model: str | Path, *, channels: int | None = None, heads: int | None = None, exact_periods: bool = False
) -> Backbone:
    """Load a backbone, frozen and in evaluation mode, on the CPU.

    The licence of published weights is said when they are loaded by name, and stands in `.licence`; so does one that
    the file or the config.json beside it names.

    Args:
        model: a run folder, a folder RUN/checkpoints/STEP, a .safetensors or .pth file, or a folder
            with model.safetensors and config.json; ours, official, of Hugging Face transformers or of timm. Where no
            such path exists, the name of published weights, such as vits14.dinov2_reg4, which are downloaded if they
            are nowhere (hub.py); or timm/NAME, hf/NAME, open_clip/NAME, which run in those libraries (dinokit/peers).
        channels: of your images; None: of the model's. Another number changes the first convolution of RGB weights
            and the pixel statistics, see models/channels.py for the rule.
        heads: of attention; only for weights that do not say it: neither by RoPE periods nor in a config.json.
        exact_periods: compute the RoPE periods of a DINOv3 transformer, as transformers and timm do, instead of taking
            those that are stored. Official files store them rounded to bfloat16, by up to 0.3 %.

    Raises:
        UserError: if there is nothing to load, or it is not what it should be; the message lists what did not fit.
    """
    if heads is not None and type(heads) is not int:
        raise UserError(f"expected heads to be a whole number, got {heads!r}")
    source, _, name = str(model).partition("/")
    if source in peers.LIBRARIES and name and not os.path.exists(model):
        if channels is not None or heads is not None or exact_periods:
            raise UserError(f"{model} is used as it is; load it without channels=, heads= and exact_periods=")
        peer: Backbone = peers.load(source, name).eval().requires_grad_(False)
        _check_finite(peer.state_dict(), str(model))
        return peer
    file = weights_file(model)
    state, about = read(file)
    return opened(file, state, about, name=str(model), channels=channels, heads=heads, exact_periods=exact_periods)


def called(model: str | Path) -> str:
    """Return what a model is called from any folder: a path as a whole, published weights and peers as they are."""
    path = os.path.expanduser(model)
    return os.path.abspath(path) if os.path.exists(path) else str(model)


def opened(
    file: Path,
    state: Mapping[str, Any],
    about: Mapping[str, str],
    *,
    name: str,
    channels: int | None = None,
    heads: int | None = None,
    exact_periods: bool = False,
) -> Backbone:
    """Build the backbone of a file that was read; see `load`.

    Args:
        file: for the messages, and to find the JSON files beside it.
        state: what `read` returned, or the part of it that is no head.
        about: its header.
        name: what was asked for; weights by name bring what is known of them.
    """
    release = hub.RELEASES[hub.named(name)] if hub.is_name(name) else hub.of_file(file)
    if FORMAT in about:
        architecture, pixels, licence = _described(about[FORMAT], file)
        if heads not in (None, getattr(architecture, "heads", None)):
            raise UserError(f"{file} says how many heads it has; load it without heads=")
    else:
        files = beside(file)
        architecture, state, pixels, assumed = recognise.recognise(state, files, file=str(file), heads=heads)
        licence = recognise.licence(files.get(names.CONFIG, {}))
        if assumed and release is None:
            info(f"{file} does not say it all; assumed: {'; '.join(assumed)}")
    _check(architecture, state, file)
    if hub.is_name(name) and release is not None and not is_a(architecture, release.architecture):
        near = nearest(architecture)
        raise UserError(f"{file} should be a {release.architecture} but is nearest to {near}; put the right file there")
    bare = FORMAT not in about and not beside(file)
    if release is not None and (hub.is_name(name) or bare) and is_a(architecture, release.architecture):
        pixels, licence = release.pixels, release.licence
        if hub.is_name(name):
            info(f"{name}: {licence}, {file}")
            if licence == hub.DINOV3 and not exact_periods:  # as official files store them, also where a copy has none
                state = dict(state) | names.periods(architecture, "bfloat16")
    if channels is not None:
        architecture, state, pixels = inflated(architecture, state, pixels, channels=channels)
    with torch.device("meta"):
        backbone = build(architecture)
    backbone.restore(state)
    if exact_periods:
        _compute_periods(backbone, file)
    backbone.pixels, backbone.licence = pixels, licence
    return backbone.eval().requires_grad_(False)


def _check(architecture: Architecture, state: Mapping[str, Tensor], file: Path) -> None:
    """Build the network without memory: a damaged description must not ask for more than the weights hold."""
    if architecture.depth > len(state):  # a block has several tensors
        raise UserError(f"{file} describes {architecture.depth} blocks and holds {len(state)} tensors; it is damaged")
    try:
        wanted = outline(architecture)
    except (RuntimeError, TypeError, OverflowError) as error:
        raise UserError(f"{file} describes a network that cannot exist: {str(error).splitlines()[0]}") from error
    names.check_shapes(wanted, state, config=architecture, file=str(file))
    for name, empty in wanted.items():
        value, no_numbers = state[name], empty.is_floating_point() and not state[name].is_floating_point()
        if value.is_meta or value.layout != torch.strided or no_numbers:
            kind = "no data" if value.is_meta else f"{str(value.layout).removeprefix('torch.')} {value.dtype}"
            raise UserError(f"{file} holds {kind} in {name}; expected plain floating point numbers")
    _check_finite(state, str(file))


def _check_finite(state: Mapping[str, Tensor], file: str) -> None:
    for name, value in state.items():
        if not is_finite(value):
            raise UserError(f"{file} holds NaN or infinite numbers in {name}; take an earlier checkpoint")


def is_finite(value: Tensor) -> bool:
    """Tell whether a tensor holds neither NaN nor infinity, nor what would become infinite in float32."""
    if not value.is_floating_point() or not value.numel():
        return True
    # NaN passes through; a tenth of the time of `isfinite` on every number, and a part of that of reading them
    return all(bool(extreme.float().isfinite()) for extreme in value.aminmax())


def _compute_periods(backbone: Network, file: Path) -> None:
    found = names.periods(backbone.config, None)
    if not found:
        raise UserError(f"{file} holds a network without RoPE; there are no periods to compute")
    names.rounding(backbone.config, backbone.state_dict())  # refuses those that are of another base
    for name, value in found.items():
        backbone.get_buffer(name).copy_(value)


def _described(about: str, file: Path) -> tuple[Architecture, Pixels, str | None]:
    try:
        described = json.loads(about)
        network = {"kind": described.get("kind", "vit"), **described["architecture"]}  # early files said it outside
        return architecture_of(network), from_plain(Pixels, described["pixels"]), described.get("licence")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{file} is damaged or of another version of dinokit: its header says {error}") from error


def check_written(model: object) -> str:
    """Return a path or a name as text, or raise UserError for what is none, such as a model that is loaded."""
    if isinstance(model, str | Path):
        return str(model)
    got = "None" if model is None else f"a {type(model).__name__}"
    raise UserError(f"expected the path of a run folder or a weights file, or a name, got {got}")


def weights_file(model: str | Path) -> Path:
    """Find the file of weights that a path or a name stands for, or raise UserError; a file is its own."""
    if not check_written(model):  # Path("") would be the current folder
        raise UserError("no model is given; give a run folder, a weights file, or a name that `dinokit models` lists")
    path = hub.find(hub.named(str(model))) if hub.is_name(str(model)) else Path(os.path.expanduser(model))
    if os.path.isdir(path):  # of os.path, to which a name that is too long is a file that is not there
        for name in (MODEL, INDEX, "pytorch_model.bin"):
            if (path / name).is_file():
                return path / name
        raise UserError(f"{path} holds no {MODEL}; expected a run folder, a checkpoint folder or a weights file")
    if not os.path.isfile(path):  # a pipe would be waited for without end
        near = hub.near(str(path))
        meant = f"; did you mean {near}?" if near else ", or the name of published weights that `dinokit models` lists"
        raise UserError(
            f"no model at {path}; expected a run folder, a checkpoint folder or a weights file, timm/NAME, hf/NAME, "
            f"open_clip/NAME{meant}"
        )
    return path


def read(file: Path) -> tuple[Mapping[str, Any], dict[str, str]]:
    """Return content and safetensors header of a weights file, or raise UserError; nothing in it is run."""
    if file.name == INDEX:
        return {name: value for part in _parts(file) for name, value in read(part)[0].items()}, {}
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                keys = opened.keys()
                return {key: opened.get_tensor(key) for key in keys}, dict(opened.metadata() or {})
        with torch.serialization.safe_globals(PLAIN):
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises almost anything on bytes that are no pickle
        raise UserError(
            f"{file} is not a readable weights file ({_reason(error)}); expected .safetensors or a plain .pth"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{file} holds a {type(state).__name__}; expected weights by name, a state dict")
    return state, {}


def beside(file: Path) -> recognise.Files:
    """Read the JSON files that describe a weights file and stand beside it; UserError if one is damaged."""
    found = {}
    for path in (file.parent / names.CONFIG, file.parent / names.PREPROCESSOR):
        if path.is_file():
            found[path.name] = read_json(path)
            if not isinstance(found[path.name], Mapping):
                raise UserError(f"{path} holds a {type(found[path.name]).__name__}; expected a table of settings")
    return found


def _parts(index: Path) -> list[Path]:
    """List the files that an index names, all beside it."""
    try:
        files = sorted(set(read_json(index)["weight_map"].values()))
        paths = [index.parent / Path(name).name for name in files]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is damaged: expected a weight_map from keys to file names") from error
    missing = [path.name for path in paths if path.suffix != ".safetensors" or not path.is_file()]
    if missing:
        raise UserError(f"{index} names parts that are not there: {', '.join(missing)}")
    return paths


def _reason(error: Exception) -> str:
    """Say what is wrong in our words where PyTorch's advise to load the file unsafely, or to write to its authors."""
    refused = re.search(r"GLOBAL (\S+)", str(error))
    if refused:
        return f"it holds {refused[1]}, and loading that could run code"
    if isinstance(error, OSError | SafetensorError) and str(error):
        return str(error).splitlines()[0]
    return "its content is not that of a weights file"
