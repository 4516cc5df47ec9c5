"""What frozen networks do: the probe of a run's health, `embed` beside timm, k-means of curation."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from dinokit.core import device as devices
from dinokit.curation.kmeans import lloyd, look
from dinokit.curation.stored import begin
from dinokit.curation.vectors import Vectors
from dinokit.features.embed import missing, work_of
from dinokit.features.embedding import encode
from dinokit.features.pipeline import batch_size, compute
from dinokit.health.probe import Probe
from dinokit.images.intensity import Pixels
from dinokit.models import architecture
from dinokit.run.monitor import measure
from dinokit.sources.source import in_memory
from dinokit.training.step import Trainer
from on_gpu.crops import views
from on_gpu.experiments import recipe
from on_gpu.place import Place, Row, percent

WAITS = 0.95  # share of the plain rate that embed is wanted to reach


def health(place: Place) -> Iterator[Row]:
    """Look at the probe of a run: what it costs in steps, and whether it leaves a trace."""
    model, batch = ("s", 2) if place.tiny else ("b", 64)
    experiment = recipe(model, batch=batch, tiny=place.tiny)
    trainer, seen = Trainer(experiment, place.device), views(experiment, place.device)
    side = experiment.data.views.global_size
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8 if place.tiny else 256, 3, side, side), dtype=torch.uint8, generator=draw)
    probe = Probe(images, torch.arange(len(images)) % 4, Pixels())
    trainer.step([seen], step=0)
    before = {name: value.clone() for name, value in trainer.state().items()}
    seconds = place.seconds(lambda: measure(trainer, probe, step=0))
    changed = [name for name, value in trainer.state().items() if not torch.equal(value, before[name])]
    step = place.seconds(lambda: trainer.step([seen], step=1))
    figure = f"{seconds:.2f} s for {len(images)} images, {seconds / step:.1f} steps of {batch}"
    yield Row(f"a look at the health of ViT-{model.upper()}/16", figure, f"changed {changed[0]}" if changed else "")


def embedding(place: Place) -> Iterator[Row]:
    """Embed decoded images: the pipeline beside its network alone, and that beside timm's."""
    count, side = (4, 32) if place.tiny else (4096, 224)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=draw)
    backbone = architecture.build(architecture.ARCHITECTURES["dinov3_vits16" if place.tiny else "dinov3_vitb16"])
    backbone = backbone.to(place.device).eval()
    backbone.pixels = Pixels(size=side)
    parts, source = images.split(batch_size(place.device)), in_memory(images)

    def plain() -> None:
        for part in parts:
            encode(backbone, devices.sent(list(part), place.device), precision="auto").cls.cpu()

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pool"

        def embedded() -> None:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            stamp = {"weights": "", "feature": "cls", "dim": backbone.dim, "precision": "", "pixels": {}}
            begin(out, stamp | {"data": source.name, "split": None, "part": 1024})
            work = work_of(backbone, source, out, precision="auto")
            compute(work, missing(out, source), workers=devices.readers(place.device))

        alone, whole = place.seconds(plain, rounds=2), place.seconds(embedded, rounds=2)
    slow = alone / whole < WAITS and not place.tiny
    figure = f"{count / whole:,.0f} img/s, {percent(alone / whole)} of its network alone"
    yield Row("embed", figure, f"expected {percent(WAITS)}" if slow else "")
    import timm

    peer = timm.create_model(f"vit_{'small' if place.tiny else 'base'}_patch16_dinov3", dynamic_img_size=True)
    peer = peer.to(place.device).eval()

    @torch.inference_mode()
    def theirs() -> None:
        with torch.autocast(place.device.type, dtype=torch.bfloat16, enabled=place.bf16):
            for part in parts:
                values = devices.sent(list(part), place.device).float().div_(255).sub_(0.45).div_(0.225)
                peer.forward_features(values)[:, 0].cpu()  # CLS, as ours

    seconds = place.seconds(theirs, rounds=2)
    slow = alone > seconds and not place.tiny
    yield Row("network of embed", f"{seconds / alone:.2f} of timm's rate", "slower than timm" if slow else "")


def kmeans(place: Place) -> Iterator[Row]:
    """Move centres on this device and on the CPU: the same to the bit, and how fast."""
    rows, dim, count = (512, 32, 16) if place.tiny else (50_000, 384, 1_000)
    draw = np.random.default_rng(0)
    modes = draw.normal(size=(count, dim))
    values = modes[draw.integers(count, size=rows)] + draw.normal(size=(rows, dim))
    unit = (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float16)
    vectors, start = Vectors([unit]), torch.from_numpy(unit[:count].astype(np.float32))
    found, seconds = [], []
    for device in (torch.device("cpu"), place.device):
        centres, began = start.to(device), time.perf_counter()
        for _, moved in lloyd(vectors, centres, iterations=2):
            centres = moved
        found.append((centres.cpu(), look(vectors, centres, sums=False).centre))
        seconds.append(time.perf_counter() - began)
    same = torch.equal(found[0][0], found[1][0]) and bool((found[0][1] == found[1][1]).all())
    figure = f"{3 * rows / seconds[1]:,.0f} rows/s, {seconds[0] / seconds[1]:.1f} of the CPU's rate"
    yield Row(f"k-means, {rows:,} x {dim}, {count:,} centres", figure, "" if same else "centres differ from the CPU's")
