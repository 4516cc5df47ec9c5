"""ONNX, for ONNX Runtime and whatever else reads it: one file, weights inside; beyond 2 GB they are FILE.onnx.data.

Source: torch.onnx.export(dynamo=True), which translates what torch.export recorded. Free sizes are named batch, height
and width; the metadata are the file's `metadata_props`.
"""

import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinokit.core.files import in_one_go, write_atomic
from dinokit.core.messages import UserError, library, line_of
from dinokit.exports.outputs import About, Exported, logged_off, recorded
from dinokit.exports.parity import Refused, Run

SUFFIX = ".onnx"
LIBRARIES = ("onnx", "onnxruntime", "onnxscript")
PRECISIONS = ("fp32", "fp16", "int8")  # its runtime has no bf16 on a CPU
MOST = 2**31 - 2**26  # bytes: a protobuf message ends at 2 GiB, and there are names and steps besides weights
AXES = {0: "batch", 2: "height", 3: "width"}


def check_installed() -> None:
    """Raise UserError if what writes and runs such files is not installed."""
    for name in LIBRARIES:
        library(name, extra="onnx")


def write(network: Exported, told: About, out: Path, *, photos: Tensor | None = None) -> None:
    """Write a file, whole or not at all; UserError if it cannot hold the network.

    Args:
        photos: normalised images that choose the steps of int8.
    """
    size = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
    if size > MOST and photos is not None:
        raise UserError(
            f"one file of ONNX holds 2 GB, the weights of {told.model} take {size / 1e9:.1f}; leave out int8"
        )
    program = recorded(network, told, target="ONNX")
    with warnings.catch_warnings():  # of what its libraries will change
        warnings.simplefilter("ignore")
        try:
            made = torch.onnx.export(
                program, dynamo=True, input_names=[told.input], output_names=[*told.outputs], verbose=False
            )
        except (RuntimeError, ValueError) as error:
            raise UserError(f"ONNX cannot hold {told.model}: {line_of(error)}") from error
        assert made is not None
        model = made.model_proto
    _name_axes(model.graph)
    if photos is not None:
        model = _quantised(model, told, photos)
    library("onnx.helper", extra="onnx").set_model_props(model, told.plain())
    out.parent.mkdir(parents=True, exist_ok=True)
    with in_one_go(out), tempfile.TemporaryDirectory(dir=out.parent, prefix=".export") as place:
        whole, weights = Path(place) / out.name, out.with_name(f"{out.name}.data")
        library("onnx", extra="onnx").save(model, whole, save_as_external_data=size > MOST, location=weights.name)
        with write_atomic(out) as steps:
            if size > MOST:
                with write_atomic(weights) as temporary:  # first, for it means nothing alone
                    whole.with_name(weights.name).replace(temporary)
                    out.unlink(missing_ok=True)  # what was there belongs to other weights
            whole.replace(steps)


def opened(file: Path) -> tuple[About, Run]:
    """Open a file in ONNX Runtime, on the CPU with torch's number of threads, or raise UserError."""
    runtime = library("onnxruntime", extra="onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    try:
        session = runtime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own errors share no other class
        raise UserError(f"{file} cannot be opened in ONNX Runtime: {line_of(error)}") from error
    told = About.of(session.get_modelmeta().custom_metadata_map, file=file)

    def run(images: Tensor) -> tuple[Tensor, ...]:
        try:
            found = session.run([*told.outputs], {told.input: images.numpy()})
        except Exception as error:  # as above
            raise Refused(str(error)) from error
        return tuple(torch.from_numpy(each) for each in found)

    return told, run


def _quantised(model: Any, told: About, photos: Tensor) -> Any:
    """Return a model of products in 8 bits, by ONNX Runtime's own tools: a scale per row of weights.

    Products of two activations, as in attention, stay float32, which takes little time.
    """
    tools = library("onnxruntime.quantization", extra="onnx")
    format = library("onnx", extra="onnx")

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc, name-defined]
        left = iter(torch.split(photos, 1))

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {told.input: image.numpy()}

    with tempfile.TemporaryDirectory() as place, in_one_go(Path(place)), logged_off():
        whole, made = Path(place) / "float.onnx", Path(place) / "int8.onnx"
        format.save(model, whole)
        tools.quantize_static(
            whole,
            made,
            Reader(),
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            extra_options={"MatMulConstBOnly": True},
        )
        return format.load(made)


def _name_axes(graph: Any) -> None:
    """Name the free sizes, which torch numbers, and drop what is known of shapes in between, which says the numbers."""
    shape = graph.input[0].type.tensor_type.shape.dim
    names = {shape[axis].dim_param: name for axis, name in AXES.items() if shape[axis].dim_param}
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"\w+", lambda word: names.get(word[0], word[0]), size.dim_param)
    del graph.value_info[:]
