"""`dinokit export`: write a backbone as a file of another runtime, and compare it there: onnx, torch-export"""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from dinokit.checkpoints.load import load
from dinokit.commands.tables import print_rows
from dinokit.core.files import check_result, digest_of_model, write_json
from dinokit.core.messages import CheckFailed, UserError, info
from dinokit.exports import onnx, torch_export
from dinokit.exports.outputs import Outputs, about, exportable
from dinokit.exports.parity import BOUNDS, Row, compare
from dinokit.models.features import Built

HEAD = ("output", "batch", "size", "cosine", "error", "rms")
TARGETS = {"onnx": onnx, "torch-export": torch_export}


def export(
    model: str,
    *,
    to: Literal["onnx", "torch-export"],
    out: Path,
    outputs: str = "cls,patches",
    dynamic: bool = False,
    precision: Literal["fp32", "fp16"] = "fp32",
    channels: int | None = None,
    heads: int | None = None,
) -> list[Row]:
    """Write a backbone as a file of another runtime; run it there and compare it with our own, at several sizes.

    The file takes float32 images, normalised by the mean and std that stand in its metadata. Beside it lies OUT.json:
    cosine and largest error of each output. Exit code 1 where one is beyond its bound; the file stays, to be looked at.
    `dinokit export check FILE MODEL` compares a file that is there.

    Args:
        model: a run folder, RUN/checkpoints/STEP, a weights file, or a name that `dinokit models` lists.
        to: onnx (.onnx, run by ONNX Runtime; extra onnx) or torch-export (.pt2, run by torch).
        out: the file.
        outputs: cls, patches, layers (the patches after four blocks, evenly spaced, or the four stages), with commas.
        dynamic: take any batch, height and width, with positions that follow; else one image of the model's size.
        precision: fp32, or fp16: weights of half the size.
        channels: of the images, where they are not the model's.
        heads: of attention, for weights that do not say it.
    """
    target, out = TARGETS[to], Path(out)
    if out.suffix != target.SUFFIX:
        raise UserError(
            f"{to} writes files {target.SUFFIX}, got {out.name}; use --out {out.with_suffix(target.SUFFIX)}"
        )
    check_result(out)
    target.check_installed()
    backbone = exportable(load(model, channels=channels, heads=heads))
    names = tuple(name for name in outputs.split(",") if name)
    told = about(backbone, names, model=str(model), dynamic=dynamic, precision=precision)
    target.write(Outputs(backbone, told.outputs, precision).eval(), told, out)
    return _judged(out, backbone)


def check(file: Path, model: str, *, channels: int | None = None, heads: int | None = None) -> list[Row]:
    """Compare a file that `dinokit export` wrote with the model it was made of, in the runtime that is here.

    Args:
        file: .onnx or .pt2.
        model: as it was given to `dinokit export`.
        channels: of the images, where they are not the model's.
        heads: of attention, for weights that do not say it.
    """
    if not Path(file).is_file():
        raise UserError(f"no file at {file}; expected what `dinokit export` wrote")
    return _judged(Path(file), exportable(load(model, channels=channels, heads=heads)))


INNER = {"check": check}


def _judged(file: Path, backbone: Built) -> list[Row]:
    """Compare, print, write; or raise CheckFailed."""
    target = next((each for each in TARGETS.values() if file.suffix == each.SUFFIX), None)
    if target is None:
        raise UserError(f"expected a file {' or '.join(each.SUFFIX for each in TARGETS.values())}, got {file.name}")
    told, run = target.opened(file)
    if told.weights != digest_of_model(backbone):
        raise UserError(f"{file} was made of other weights than these ({told.model}); give the model it was made of")
    rows, bound = compare(run, backbone, told), BOUNDS[told.precision]
    print_rows(f"{file.name} beside dinokit in float32", HEAD, [_shown(row) for row in rows])
    kept = {
        "about": asdict(told),
        "versions": {name: version(name) for name in ("dinokit", "torch", *target.LIBRARIES)},
        "bounds": asdict(bound),
        "holds": all(row.holds for row in rows),
        "rows": [asdict(row) for row in rows],
    }
    beside = file.with_name(f"{file.name}.json")
    write_json(beside, kept)
    wrong = sum(not row.holds for row in rows)
    bounds = f"cosine at least {bound.cosine}, error at most {bound.error:g}, times the rms where that is above 1"
    if wrong:
        raise CheckFailed(f"{wrong} of {len(rows)} rows of {beside} are beyond the bound ({bounds}); do not use {file}")
    info(f"{file}, compared in {beside}: {bounds}")
    return rows


def _shown(row: Row) -> tuple[object, ...]:
    numbers = f"{row.cosine:.7f}", f"{row.error:.1e}", f"{row.scale:.2g}"
    return row.output, row.batch, f"{row.height} x {row.width}", *numbers
