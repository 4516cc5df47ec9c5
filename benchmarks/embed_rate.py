"""What `dinokit embed` costs beside the network: images per second of the plain forward pass, and of embed, by turns.

    python benchmarks/embed_rate.py [--models s] [--size 224] [--images 512] [--rounds 5] [--device auto]
                                   [--precision auto] [--photos DIR]

The plain side loops over the same images, decoded and resized already, in the same batches: to the device, forward,
back. Embed also reads, digests, flags, normalises, and writes to a fresh folder; once from memory (the same decoded
images) and once, with --photos or else from JPEGs made of noise, from files. Weights are random: they change no time.
The first round warms up; printed are the medians of the others, the share of embed's time in which the network waits
for images, and embed / plain: of the rates, and of the processor's seconds per image, which other programs on the
machine disturb less.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dinokit.core import device as devices
from dinokit.curation.stored import begin
from dinokit.features.embed import missing, work_of
from dinokit.features.embedding import encode
from dinokit.features.pipeline import batch_size, compute
from dinokit.images.intensity import Pixels
from dinokit.models import architecture
from dinokit.models.features import Backbone
from dinokit.sources.source import Source, in_memory, open_source

NAMES = {"s": "dinov3_vits16", "b": "dinov3_vitb16", "l": "dinov3_vitl16"}


def main() -> None:
    """Print one row per model and kind of source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(NAMES), default=["s"])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    parser.add_argument("--photos", default="")
    given = parser.parse_args()
    device = devices.choose(given.device)
    draw = np.random.default_rng(0)
    decoded = torch.from_numpy(draw.integers(0, 256, (given.images, 3, given.size, given.size), dtype=np.uint8))
    print(f"torch {torch.__version__}, {device}, {devices.cores()} cores")
    print("model source | plain img/s | embed img/s | network waits | embed / plain: rate, processor")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(given.photos) if given.photos else _photos(Path(place) / "photos", given.images, draw)
        for name in given.models:
            backbone = architecture.build(architecture.ARCHITECTURES[NAMES[name]]).to(device).eval()
            backbone.pixels = Pixels(size=given.size)
            for kind, source in (("decoded", in_memory(decoded)), ("JPEG", open_source(str(folder)))):
                _row(f"{name} {kind}", backbone, source, decoded, given=given, place=Path(place) / "out")


def _row(
    title: str, backbone: Backbone, source: Source, decoded: torch.Tensor, *, given: argparse.Namespace, place: Path
) -> None:
    device, waits = backbone.device, list[float]()

    def plain() -> int:
        for images in decoded.split(batch_size(device)):
            encode(backbone, images.to(device), precision=given.precision).cls.cpu()
        return len(decoded)

    def embedded() -> int:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        stamp = {"weights": "", "feature": "cls", "dim": backbone.dim, "precision": "", "pixels": {}}
        begin(place, stamp | {"data": source.name, "split": None, "part": 1024})
        work = work_of(backbone, source, place, precision=given.precision)
        pace = compute(work, missing(place, source), workers=devices.readers(device))
        waits.append(pace.waited / pace.seconds)
        return pace.total

    times: dict[Callable[[], int], list[tuple[float, float]]] = {plain: [], embedded: []}
    for _ in range(given.rounds + 1):
        for side, found in times.items():
            began = time.perf_counter(), time.process_time()
            images = side()
            found.append(((time.perf_counter() - began[0]) / images, (time.process_time() - began[1]) / images))
    (one, busy), (two, busier) = ([statistics.median(each) for each in zip(*found[1:])] for found in times.values())
    share = 100 * statistics.median(waits[1:])
    print(f"{title} | {1 / one:.1f} | {1 / two:.1f} | {share:.0f} % | {one / two:.3f}, {busier / busy:.3f}", flush=True)


def _photos(folder: Path, count: int, draw: np.random.Generator) -> Path:
    """Write JPEGs of the size of a photo of the web, smooth enough to be as large as one."""
    folder.mkdir()
    for number in range(count):
        small = Image.fromarray(draw.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        small.resize((640, 480), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)
    return folder


if __name__ == "__main__":
    main()
