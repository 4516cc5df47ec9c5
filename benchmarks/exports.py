"""Exported files beside our own network, at published sizes, and how fast their runtimes are, by turns in one run.

    python benchmarks/exports.py [--networks dinov2_vits14 ...] [--to onnx openvino] [--precisions fp32 ...]
                                 [--batches 1 8] [--head] [--rate] [--rounds 15]

Weights are random, with LayerScale of 0.3 to 0.5 and normal positions, so that every branch counts: published ones are
not at hand. A row is the worst over all sizes (224, 336, 518, 224 x 448) of one output. int8 is calibrated on smooth
noise. With --head each network also carries a linear head of 21 classes for segmentation. With --rate images per second
of one image at 224 px: eager, packed, and each file; the first round warms up, medians of the others.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinokit.commands.export import TARGETS
from dinokit.dense import segmentation
from dinokit.dense.heads import About as AboutHead
from dinokit.exports.headed import Headed, about_headed, expected
from dinokit.exports.outputs import Exported, Outputs, about
from dinokit.exports.parity import Row, compare
from dinokit.models.architecture import ARCHITECTURES, build
from dinokit.models.features import Built
from dinokit.models.packed import packed

NAMES = (
    "dino_vits16",
    "dino_vitb16",
    "dinov2_vits14",
    "dinov2_vits14_reg",
    "dinov2_vitb14",
    "dinov3_vits16",
    "dinov3_vitb16",
    "dinov3_convnext_tiny",
)
SIDE = 224


def main() -> None:
    """Print one row per file and output, then the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NAMES))
    parser.add_argument("--to", nargs="+", choices=list(TARGETS), default=["onnx", "openvino"])
    parser.add_argument("--precisions", nargs="+", default=["fp32"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--head", action="store_true")
    parser.add_argument("--rate", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print("network | file | MB | output | worst cosine | largest error | relative | rms | holds | seconds to write")
    for name in given.networks:
        with tempfile.TemporaryDirectory() as place:
            _network(name, given, Path(place))


def _network(name: str, given: argparse.Namespace, place: Path) -> None:
    backbone = drawn(build(ARCHITECTURES[name]))
    photos = smooth(16)
    runs: dict[str, Callable[[Tensor], Any]] = {}
    for head in (False, True)[: 1 + given.head]:
        own: dict[tuple[int, ...], tuple[Tensor, ...]] = {}  # computed once for all files
        for to in given.to:
            for precision in given.precisions:
                if precision not in TARGETS[to].PRECISIONS:
                    continue
                network, told, ours = _exported(name, backbone, precision, head=head)
                out, began = place / f"{to}{head}{precision}{TARGETS[to].SUFFIX}", time.monotonic()
                TARGETS[to].write(network.eval(), told, out, photos=photos[:12] if precision == "int8" else None)
                seconds, (_, run) = time.monotonic() - began, TARGETS[to].opened(out)
                judges = photos[12:] if precision == "int8" else None
                rows = compare(run, _kept(ours, own), told, photos=judges, batches=tuple(given.batches))
                size = sum(each.stat().st_size for each in place.glob(f"{out.stem}.*")) / 1e6
                for output in told.outputs:
                    _print(f"{name}{' + head' * head} | {to} {precision} | {size:.0f}", output, rows, seconds)
                if not head:
                    runs[f"{to} {precision}"] = run
    if given.rate:
        rates(name, backbone, runs, rounds=given.rounds)


def _exported(name: str, backbone: Built, precision: Any, *, head: bool) -> tuple[Exported, Any, Any]:
    how: dict[str, Any] = {"model": name, "dynamic": True, "precision": precision}
    if not head:
        told = about(backbone, ("cls", "patches"), **how)
        return Outputs(backbone, told.outputs, precision), told, Outputs(backbone, told.outputs).eval()
    learnt = segmentation.LinearHead(segmentation.Config(width=backbone.dim, outputs=21)).eval().requires_grad_(False)
    learnt.classify.weight.normal_(generator=torch.Generator().manual_seed(2)).mul_(backbone.dim**-0.5)
    details = {"classes": [str(number) for number in range(21)], "colours": [[0, 0, 0]] * 21}
    of = AboutHead("segmentation", name, "", details=details)
    told = about_headed(backbone, learnt, of, (), **how)
    return Headed(backbone, learnt, of, told.outputs, precision), told, expected(backbone, learnt, of, told.outputs)


def _kept(ours: Any, own: dict[tuple[int, ...], tuple[Tensor, ...]]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    def found(images: Tensor) -> tuple[Tensor, ...]:
        key = (*images.shape, hash(images.flatten()[:8].numpy().tobytes()))
        if key not in own:
            own[key] = ours(images)
        return own[key]

    return found


def _print(title: str, output: str, rows: list[Row], seconds: float) -> None:
    own = [row for row in rows if row.output == output]
    cosine, error = min(row.cosine for row in own), max(row.error for row in own)
    holds, scale = sum(row.holds for row in own), max(row.scale for row in own)
    relative = max(row.relative for row in own)
    numbers = f"{cosine:.7f} | {error:.1e} | {relative:.1e} | {scale:.2f} | {holds} of {len(own)} | {seconds:.0f}"
    print(f"{title} | {output} | {numbers}", flush=True)


def drawn(backbone: Built) -> Built:
    """Give a network weights with which every branch and every position counts."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in backbone.named_parameters():
            if "gamma" in key:
                value.copy_(0.3 + 0.2 * torch.rand(value.shape, generator=draw))
            if "pos_embed" in key:
                value.copy_(torch.randn(value.shape, generator=draw))
    return backbone.eval().requires_grad_(False)


def smooth(count: int) -> Tensor:
    """Draw images that are smooth, as photos are, of about the values of normalised ones."""
    small = torch.randn(count, 3, 14, 14, generator=torch.Generator().manual_seed(3))
    return torch.nn.functional.interpolate(small, size=(SIDE, SIDE), mode="bicubic")


def rates(name: str, backbone: Built, runs: dict[str, Callable[[Tensor], Any]], *, rounds: int) -> None:
    """Print images per second of one image, by turns."""
    image = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))

    twin = copy.deepcopy(backbone)  # a stretch packs all that it is given
    sides = {"eager": _plain(backbone), "packed": _plain(twin), **runs}
    times: dict[str, list[float]] = {each: [] for each in sides}
    with packed(twin):
        for _ in range(rounds + 1):
            for each, run in sides.items():
                times[each].append(_seconds(run, image))
    found = {each: 1000 * statistics.median(several[1:]) for each, several in times.items()}
    print(f"{name} | ms of one image, medians: {', '.join(f'{each} {value:.1f}' for each, value in found.items())}")


def _plain(backbone: Built) -> Callable[[Tensor], Any]:
    def found(images: Tensor) -> Any:
        with torch.no_grad():
            return backbone(images)

    return found


def _seconds(run: Callable[[Tensor], Any], image: Tensor) -> float:
    began = time.perf_counter()
    run(image)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
