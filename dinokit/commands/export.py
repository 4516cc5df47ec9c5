"""`dinokit export`: write a backbone, or a head with it, for onnx, openvino, torch-export, and compare it there"""

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dinokit.checkpoints.load import load
from dinokit.commands.tables import print_rows
from dinokit.core.files import check_result, digest_of_model, digest_of_weights, in_one_go, write_json
from dinokit.core.messages import CheckFailed, UserError, info, unknown_name
from dinokit.dense.heads import About as AboutHead
from dinokit.dense.heads import check_model, load_head
from dinokit.exports import onnx, openvino, torch_export
from dinokit.exports.calibration import halves, photos_of
from dinokit.exports.headed import Headed, about_headed, expected
from dinokit.exports.outputs import About, Exported, Outputs, Precision, about, exportable
from dinokit.exports.parity import BOUNDS, Row, Run, compare
from dinokit.models.features import Built

HEAD = ("output", "batch", "size", "cosine", "error", "relative", "rms")
TARGETS = {"onnx": onnx, "openvino": openvino, "torch-export": torch_export}
REFUSED = {
    "executorch": "it was left out, for its programs run images of one size (free ones fail in arange); take --to "
    "torch-export without --dynamic, whose program ExecuTorch's own tools lower, or --to onnx"
}


def export(
    model: str,
    *,
    to: str,
    out: Path,
    head: Path | None = None,
    outputs: str | None = None,
    dynamic: bool = False,
    precision: Precision = "fp32",
    calibrate: str | None = None,
    channels: int | None = None,
    heads: int | None = None,
) -> list[Row]:
    """Write a backbone as a file of another runtime; run it there and compare it with our own, at several sizes.

    The file takes float32 images, normalised by the mean and std that stand in its metadata. Beside it lies OUT.json:
    cosine and largest error of each output. Exit code 1 where one is beyond its bound; the file stays, to be looked at.
    `dinokit export check FILE MODEL` compares a file that is there.

    Args:
        model: a run folder, RUN/checkpoints/STEP, a weights file, or a name that `dinokit models` lists.
        to: onnx (.onnx, run by ONNX Runtime; extra onnx), openvino (.xml, with .bin beside it; extra openvino) or
            torch-export (.pt2, run by torch).
        out: the file.
        head: the folder of a head of segmentation, depth, foreground, linear or attentive: SAVE/head of `dinokit
            evaluate TASK --save SAVE`. The file then returns what the head finds: logits and mask, depth in metres,
            probability, or logits and probabilities.
        outputs: cls, patches, layers (the patches after four blocks, evenly spaced, or the four stages), with commas;
            cls,patches if not given. Of a head all, or some.
        dynamic: take any batch, height and width, with positions that follow; else one image of the model's size.
        precision: fp32; fp16: weights of half the size; bf16: as well, not in onnx; int8: products in 8 bits, in onnx
            and openvino (extra nncf).
        calibrate: images, anything that `pretrain` takes, of which up to 120 choose the steps of int8; up to 8 others
            choose nothing and are compared.
        channels: of the images, where they are not the model's.
        heads: of attention, for weights that do not say it.
    """
    if to not in TARGETS:
        raise UserError(f"no --to {to}: {REFUSED[to]}") if to in REFUSED else unknown_name("--to", to, TARGETS)
    target, out = TARGETS[to], Path(out)
    if out.suffix != target.SUFFIX:
        raise UserError(
            f"{to} writes files {target.SUFFIX}, got {out.name}; use --out {out.with_suffix(target.SUFFIX)}"
        )
    if precision not in target.PRECISIONS:
        others = ", ".join(name for name, each in TARGETS.items() if precision in each.PRECISIONS)
        raise UserError(f"{to} writes {', '.join(target.PRECISIONS)}, not {precision}, which {others} would")
    if (precision == "int8") != (calibrate is not None):
        raise UserError(
            "--precision int8 and --calibrate IMAGES belong together: its steps are chosen by what they show"
        )
    check_result(out)
    target.check_installed()
    backbone = exportable(load(model, channels=channels, heads=heads))
    names = tuple(name for name in (outputs or "").split(",") if name)
    how: dict[str, Any] = {"model": str(model), "dynamic": dynamic, "precision": precision}
    network: Exported
    if head is None:
        told = about(backbone, ("cls", "patches") if outputs is None else names, **how)
        network = Outputs(backbone, told.outputs, precision)
    else:
        learnt, of = _learnt(head, backbone, model)
        told = about_headed(backbone, learnt, of, names, **how)
        network = Headed(backbone, learnt, of, told.outputs, precision)
    chosen, judges = (None, None) if calibrate is None else halves(photos_of(calibrate, backbone, told))
    target.write(network.eval(), told, out, photos=chosen)
    return _judged(out, backbone, head=head, photos=judges)


def check(
    file: Path,
    model: str,
    *,
    head: Path | None = None,
    calibrate: str | None = None,
    channels: int | None = None,
    heads: int | None = None,
) -> list[Row]:
    """Compare a file that `dinokit export` wrote with the model it was made of, in the runtime that is here.

    Args:
        file: .onnx, .xml or .pt2.
        model: as it was given to `dinokit export`.
        head: as it was given to `dinokit export`.
        calibrate: images that a file of int8 is compared on: noise is not what its steps were chosen for.
        channels: of the images, where they are not the model's.
        heads: of attention, for weights that do not say it.
    """
    if not Path(file).is_file():
        raise UserError(f"no file at {file}; expected what `dinokit export` wrote")
    backbone = exportable(load(model, channels=channels, heads=heads))
    return _judged(Path(file), backbone, head=head, calibrate=calibrate)


INNER = {"check": check}


def _learnt(head: Path, backbone: Built, model: str) -> tuple[nn.Module, AboutHead]:
    learnt, of = load_head(head)
    check_model(of, backbone, model=str(model))
    return learnt, of


def _judged(
    file: Path,
    backbone: Built,
    *,
    head: Path | None,
    photos: Tensor | None = None,
    calibrate: str | None = None,
) -> list[Row]:
    """Compare, print, write; or raise CheckFailed."""
    target = next((each for each in TARGETS.values() if file.suffix == each.SUFFIX), None)
    if target is None:
        raise UserError(f"expected a file {' or '.join(each.SUFFIX for each in TARGETS.values())}, got {file.name}")
    told, run = target.opened(file)
    if told.weights != digest_of_model(backbone):
        raise UserError(f"{file} was made of other weights than these ({told.model}); give the model it was made of")
    if bool(told.task) != (head is not None):
        wanted = f"with a head of {told.task}; give it as --head" if told.task else "without a head; leave out --head"
        raise UserError(f"{file} was made {wanted}")
    if told.precision == "int8" and photos is None:
        if calibrate is None:
            raise UserError(f"{file} holds int8; give the images that it is compared on as --calibrate IMAGES")
        photos = halves(photos_of(calibrate, backbone, told))[1]  # which chose nothing
    rows, bound = compare(run, _own(backbone, head, told), told, photos=photos), BOUNDS[told.precision]
    print_rows(f"{file.name} beside dinokit in float32", HEAD, [_shown(row) for row in rows])
    kept = {
        "about": asdict(told),
        "versions": {name: version(name) for name in ("dinokit", "torch", *target.LIBRARIES)},
        "bounds": asdict(bound),
        "holds": all(row.holds for row in rows),
        "rows": [asdict(row) for row in rows],
    }
    beside = file.with_name(f"{file.name}.json")
    with in_one_go(beside):
        write_json(beside, kept)
    wrong = sum(not row.holds for row in rows)
    if wrong:
        raise CheckFailed(f"{wrong} of {len(rows)} rows of {beside} are beyond the bound ({bound}); do not use {file}")
    info(f"{file}, compared in {beside}: {bound}")
    return rows


def _own(backbone: Built, head: Path | None, told: About) -> Run:
    """Return what a file is compared with."""
    if head is None:
        return Outputs(backbone, told.outputs).eval()
    learnt, of = _learnt(head, backbone, told.model)
    if digest_of_weights(learnt) != told.head:
        raise UserError(f"{head} is another head than the one of this file; give the one that it was made with")
    return expected(backbone, learnt, of, told.outputs)


def _shown(row: Row) -> tuple[object, ...]:
    numbers = f"{row.cosine:.7f}", f"{row.error:.1e}", f"{row.relative:.1e}", f"{row.scale:.2g}"
    return row.output, row.batch, f"{row.height} x {row.width}", *numbers
