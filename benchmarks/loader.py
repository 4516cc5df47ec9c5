"""How fast are the views? Images per second on one core, 2 x 224 + 8 x 96 pixels, from JPEG bytes to normalised crops.

    python benchmarks/loader.py PHOTOS [--lightly PYTHON] [--rounds 5] [--images 32]

PHOTOS is a folder of JPEGs of any sizes; copies of 500 x 375 pixels and of 12 megapixels are made of them. PYTHON is
that of an environment with lightly-train, which is only ever run as a process of its own; without it that side is left
out.
All sides are run in turn, each in a process of its own, round by round; medians over rounds of wall and of processor
time, which is the steadier one on a shared machine. Every side decodes with Pillow; all but ours at full size. Where
numba is installed, "dinokit, exact" is made by it. Every side keeps the memory that it frees, as a run of dinokit does.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jpegs
import numpy as np
import torch
from PIL import Image
from sides import answer, compared
from torchvision import transforms as v1
from torchvision.transforms import v2

from dinokit.core.device import keep_freed_memory
from dinokit.images import decode
from dinokit.images.intensity import Pixels
from dinokit.views import multicrop

SIZES = {"500x375": (500, 375), "12 megapixels": (4000, 3000)}
_NORMAL = [list(Pixels().mean), list(Pixels().std)]
_Run = Callable[[list[bytes]], object]


def main() -> None:
    """Print a row per size of image and side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--lightly", metavar="PYTHON", help="an interpreter that has lightly-train")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--side", choices=list(SIDES), help=argparse.SUPPRESS)  # one side's own process, of copies
    arguments = parser.parse_args()
    if arguments.side:
        torch.set_num_threads(1)
        keep_freed_memory()
        data = [file.read_bytes() for file in sorted(arguments.photos.glob("*.jpg"))]
        run = SIDES[arguments.side]()
        answer(lambda: run(data))
        return
    print("images | side | img/s wall | img/s of processor time")
    for name, size in SIZES.items():
        count = arguments.images if size[0] < 1000 else max(1, arguments.images // 4)
        with tempfile.TemporaryDirectory() as folder:
            jpegs.copy(arguments.photos, Path(folder), size, count=count)
            sides = {side: [sys.executable, *jpegs.ours(side, folder)] for side in SIDES}
            sides |= {"LightlyTrain": jpegs.lightly(arguments.lightly, folder)} if arguments.lightly else {}
            for side, taken in compared(sides, rounds=arguments.rounds).items():
                print(f"{name} | {side} | {count / taken.seconds:.1f} | {count / taken.processor:.1f}", flush=True)
    if arguments.lightly is None:
        print("LightlyTrain was left out: no --lightly")


def _ours(chain: str) -> _Run:
    base = multicrop.Config()
    kinds = {name: replace(getattr(base, name), chain=chain) for name in ("first", "second", "local")}
    config = replace(base, **kinds)

    def run(data: list[bytes]) -> object:
        images = [decode.decode(each, min_side=config.min_side) for each in data]
        return multicrop.cut(images, config, Pixels(), seed=0, step=0, first=0).on(torch.device("cpu"))

    return run


def _torchvision(library: Any, opened: Callable[[bytes], object], finish: list[object]) -> _Run:
    """Make the views as the DINOv2 recipe says, image by image, with either version of torchvision."""
    chains = {kind: _chain(library, kind, finish) for kind in ("first", "second", "local")}
    kinds = ["first", "second", *["local"] * 8]
    return lambda data: [[chains[kind](image) for kind in kinds] for image in map(opened, data)]


def _rgb(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _uint8(data: bytes) -> torch.Tensor:
    return torch.from_numpy(np.array(_rgb(data))).permute(2, 0, 1)


def _chain(library: Any, kind: str, finish: list[object]) -> Callable[[object], torch.Tensor]:
    """Build one kind of view, with the blur probabilities of the published code."""
    t = library
    size, scale = (96, (0.05, 0.32)) if kind == "local" else (224, (0.32, 1.0))
    blur = {"first": 0.0, "second": 0.9, "local": 0.5}[kind]
    steps = [
        t.RandomResizedCrop(size, scale=scale, interpolation=t.InterpolationMode.BICUBIC),
        t.RandomHorizontalFlip(),
        t.RandomApply([t.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
        t.RandomGrayscale(0.2),
        t.RandomApply([t.GaussianBlur(9, (0.1, 2.0))], p=blur),
        *([t.RandomSolarize(128, p=0.2)] if kind == "second" else []),
    ]
    chain: Callable[[object], torch.Tensor] = t.Compose([*steps, *finish])
    return chain


def _without_numba() -> _Run:
    sys.modules["numba"] = None  # type: ignore[assignment]  # Python's way to say that there is none
    return _ours("exact")


SIDES: dict[str, Callable[[], _Run]] = {
    "dinokit, exact": lambda: _ours("exact"),
    "dinokit, exact, no numba": _without_numba,
    "dinokit, fused": lambda: _ours("fused"),
    "torchvision v1 on PIL": lambda: _torchvision(v1, _rgb, [v1.ToTensor(), v1.Normalize(*_NORMAL)]),
    "torchvision v2 on uint8": lambda: _torchvision(
        v2, _uint8, [v2.ToDtype(torch.float32, scale=True), v2.Normalize(*_NORMAL)]
    ),
}


if __name__ == "__main__":
    main()
