"""Does a run go on to the bit, and are batches on this device what they are on a CPU?"""

import os
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from dinokit import recipes
from dinokit.config import override
from dinokit.images.intensity import Pixels
from dinokit.run import engine
from dinokit.sources.source import in_memory
from dinokit.training.config import TrainConfig, with_full_paths, with_settings
from dinokit.views import masking, multicrop
from dinokit.views.loader import Loader
from dinokit.views.multicrop import Views
from on_gpu.place import Place, Row, percent

ROUNDING = 0.05  # grey levels of 255 by which a pixel may differ that the same operations made elsewhere
FEW = 1e-4  # share of pixels that may differ by more: those at a threshold
SPREAD = 58.0  # grey levels in a normalised unit


def resume(place: Place) -> Iterator[Row]:
    """Train the demo twice, and once with a stop in the middle."""
    steps = 4 if place.tiny else 40
    settings = {"steps": steps, "processes": 1, "health.every": 3, "workers": 0 if place.tiny else 2}
    settings |= {"data.batch_size": 8 if place.tiny else 64, "device": str(place.device.type)}
    settings |= {"objectives.koleo.group": None, "checkpoint_every": steps, "tensorboard": False, "eval.tasks": None}
    config = with_full_paths(with_settings(recipes.find("demo"), settings | {"experiment.data.source": "demo:fashion"}))
    learnt = {"position": "offset", "position_grid": 7}  # positions, whose gradient F.interpolate makes in any order
    config = override(config, {f"experiment.backbone.{key}": each for key, each in ({"channels": 1} | learnt).items()})
    with tempfile.TemporaryDirectory() as folder:
        once, again, stopped = (Path(folder) / name for name in ("once", "again", "stopped"))
        _train(config, once)
        _train(config, again)
        _train(config, stopped, stop=steps // 2)
        _train(config, stopped)
        yield _equal("the same run twice", _last(once), _last(again))
        yield _equal("a run that was stopped", _last(once), _last(stopped))


def batches(place: Place) -> Iterator[Row]:
    """Compare the loader's batches, pinned or not, and distort on both sides."""
    draw = torch.Generator().manual_seed(0)
    side, count = (96, 4) if place.tiny else (375, 64)
    coarse = torch.rand(count, 3, side // 12, side // 12, generator=draw)
    images = torch.nn.functional.interpolate(coarse, size=(side, side + 24), mode="bicubic").clamp(0, 1).mul(255).byte()
    sizes = {"global_size": 64, "local_size": 32} if place.tiny else {}
    config = multicrop.Config(**sizes, first=replace(multicrop.Config().first, solarise=0.2))
    make = partial(Loader, in_memory(images), config, masking.Config(), Pixels(), patch_size=16, batch=count, seed=0)
    pinned = place.device.type == "cuda"
    found = make(workers=1, pin_memory=pinned).batches(0, 2)
    apart = 0
    for batch in found:
        there = batch.views.on(place.device)
        apart += sum(int((one != other.cpu()).sum()) for one, other in _crops(make().build(batch.step).views, there))
    yield Row(
        "the loader's batches" + (", pinned" if pinned else ""),
        "equal to the bit" if not apart else f"{apart:,} numbers differ",
        "" if not apart else "expected none",
    )
    cut = make(distort=False).build(0).views
    assert isinstance(cut, multicrop.Cut)
    cpu = torch.device("cpu")
    pairs = list(_crops(cut.on(cpu), cut.on(place.device)))
    gaps = torch.cat([(one - other.cpu()).abs().flatten().float() * SPREAD for one, other in pairs])
    share = float((gaps > ROUNDING).float().mean())
    yield Row(
        "runtime.distort device",
        f"{percent(share)} of pixels differ by more than {ROUNDING:g} levels, at most {float(gaps.max()):.2g}",
        f"expected {percent(FEW)}" if not share <= FEW else "",
    )
    rates = [count / place.seconds(lambda where=where: cut.on(where), rounds=3) for where in (cpu, place.device)]
    yield Row("distortion of 2 x 224 + 8 x 96", f"{rates[1]:,.0f} img/s here, {rates[0]:,.0f} on the CPU")


def _train(config: TrainConfig, out: Path, *, stop: int = 0) -> None:
    """Train, or go on; after so many steps send the signal that ends it."""
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        if done == stop:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        engine.pretrain(config, out, on_step=count)
    except engine.Interrupted:
        assert stop, "nobody stopped it"


def _last(run: Path) -> dict[str, Tensor]:
    folder = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return load_file(folder / "state.safetensors")


def _equal(name: str, one: dict[str, Tensor], other: dict[str, Tensor]) -> Row:
    apart = [key for key in one if not torch.equal(one[key], other[key])]
    if not apart:
        return Row(name, f"{len(one)} tensors equal to the bit")
    largest = max(float((one[key].double() - other[key].double()).abs().max()) for key in apart)
    return Row(name, f"{len(apart)} of {len(one)} tensors differ, by {largest:.1g} at most", f"first {apart[0]}")


def _crops(one: Views | multicrop.Cut, other: Views | multicrop.Cut) -> Iterator[tuple[Tensor, Tensor]]:
    yield one.global_crops, other.global_crops
    yield one.local_crops, other.local_crops
