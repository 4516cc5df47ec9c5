"""OpenVINO: FILE.xml, the steps, beside FILE.bin, the weights; the metadata stand in `rt_info` below "dinokit".

OpenVINO's own frontend translates what torch.export recorded. Importing OpenVINO, converting and quantising tell its
makers so (Google Analytics) unless the user has declined beforehand; here they do not, for nobody was asked.

On a processor with bfloat16 (AMX) OpenVINO computes in it whatever the file holds: worst errors of 1e-2 instead of
1e-5. Whoever runs a file of fp32 asks for `f32`, which stands in the metadata as `inference_precision`:

    openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
"""

import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import ExportedProgram

from dinokit.core.files import in_one_go, write_atomic
from dinokit.core.messages import RunError, UserError, library, line_of
from dinokit.exports.outputs import About, Exported, Outputs, depth_of, logged_off, recorded
from dinokit.exports.parity import Refused, Run
from dinokit.models.convnets import ConvNet

SUFFIX = ".xml"
LIBRARIES = ("openvino",)
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
ROOM = "dinokit"  # of the metadata in rt_info
HINT = "inference_precision"


def quiet(name: str, *, extra: str = "openvino") -> Any:
    """Import a part of OpenVINO without what reports on its use, or raise UserError."""
    sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))  # None: as if it were not installed
    return library(name, extra=extra)


def check_installed() -> None:
    """Raise UserError if what writes and runs such files is not installed."""
    quiet("openvino")


def write(network: Exported, told: About, out: Path, *, photos: Tensor | None = None) -> None:
    """Write both files, whole or not at all; UserError if they cannot hold the network.

    Args:
        photos: normalised images that choose the steps of int8.
    """
    runtime = quiet("openvino")
    names = [{name} for name in told.outputs]
    last = f"layer_{depth_of(network.backbone) - 1}"
    if isinstance(network, Outputs) and {"patches", last} <= {
        *told.outputs
    }:  # the same tensor, of which it refuses to make two outputs
        names = [{name, last} if name == "patches" else {name} for name in told.outputs if name != last]
        network = Outputs(network.backbone, tuple(name for name in told.outputs if name != last)).eval()
    program = recorded(network, told, target="OpenVINO")
    try:
        model = _translated(program)
    except RuntimeError as error:
        raise UserError(f"OpenVINO cannot hold {told.model}: {line_of(error)}") from error
    if photos is not None:
        model = _quantised(model, photos, is_transformer=not isinstance(network.backbone, ConvNet))
    model.inputs[0].set_names({told.input})
    for output, called in zip(model.outputs, names, strict=True):
        output.set_names(called)
    for key, value in (told.plain() | {HINT: _hint(told)}).items():
        model.set_rt_info(value, [ROOM, key])
    out.parent.mkdir(parents=True, exist_ok=True)
    with in_one_go(out), tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as place:
        made = Path(place) / "model.xml"
        try:
            runtime.save_model(model, made, compress_to_fp16=False)  # else it would be half precision
        except RuntimeError as error:
            if "stream" not in str(error):
                raise
            raise RunError(
                f"no room is left for {out}, it seems: OpenVINO says no more than '{line_of(error)}'; free space and "
                "give the same command again"
            ) from error
        with write_atomic(out) as steps, write_atomic(out.with_suffix(".bin")) as weights:  # the weights first
            made.with_suffix(".bin").replace(weights)
            out.unlink(missing_ok=True)  # what was there belongs to other weights
            made.replace(steps)


def opened(file: Path) -> tuple[About, Run]:
    """Open a file in OpenVINO, on the CPU with torch's number of threads, or raise UserError."""
    runtime = quiet("openvino")
    core = runtime.Core()
    try:
        model = core.read_model(file)
        kept = model.get_rt_info()[ROOM] if model.has_rt_info([ROOM]) else {}
        told = About.of({key: value.astype(str) for key, value in kept.items()}, file=file)
        settings = {"INFERENCE_PRECISION_HINT": _hint(told), "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
    except RuntimeError as error:
        raise UserError(f"{file} cannot be opened in OpenVINO: {line_of(error)}") from error

    def run(images: Tensor) -> tuple[Tensor, ...]:
        try:
            found = request.infer({told.input: images.numpy()})
        except RuntimeError as error:
            raise Refused(str(error)) from error
        return tuple(torch.from_numpy(found[name].copy()) for name in told.outputs)

    return told, run


def _translated(program: ExportedProgram) -> Any:
    """Return an OpenVINO model of a program, without a word to anyone."""
    decoders = quiet("openvino.frontend.pytorch.fx_decoder")
    frontend = quiet("openvino.frontend").FrontEndManager().load_by_framework("pytorch")
    with logged_off():  # which operations it looks for in vain
        decoder = decoders.TorchFXPythonDecoder.from_exported_program(program)  # kept until all is translated
    return frontend.convert(frontend.load(decoder))


def _quantised(model: Any, photos: Tensor, *, is_transformer: bool) -> Any:
    """Return a model of products in 8 bits, by NNCF as it is meant for transformers, or for others."""
    tools = quiet("nncf", extra="nncf")
    # what it does for transformers took a ConvNeXt-T's class token to a cosine of 0.34, else 0.9986
    kind = tools.ModelType.TRANSFORMER if is_transformer else None
    with logged_off():
        data = tools.Dataset([each.numpy() for each in torch.split(photos, 1)])
        return tools.quantize(model, data, model_type=kind, subset_size=len(photos))


def _hint(told: About) -> str:
    return "bf16" if told.precision == "bf16" else "f32"
