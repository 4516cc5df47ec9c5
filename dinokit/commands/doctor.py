"""`dinokit doctor`: say what this machine and this installation have, and try a step"""

import platform
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from io import StringIO
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from dinokit import __version__
from dinokit.commands.pretrain import pretrain
from dinokit.core import device as devices
from dinokit.core.files import cache_folder
from dinokit.core.messages import info
from dinokit.planning.plan import measured_rate

LIBRARIES = ("torch", "torchvision", "numpy", "pillow")
OURS = ("dev", "docs")  # extras of those who work on dinokit
STEP = {"steps": 1, "data.batch_size": 8, "processes": 1, "workers": 0, "eval.tasks": None, "tensorboard": False}


def doctor(*, device: str = "auto", json: bool = False) -> dict[str, Any]:
    """Say versions, device, cores, memory, cache and which extras are installed, then train one step of `demo`.

    Args:
        device: auto, cpu, cuda or mps.
        json: print JSON, for a report of a fault.
    """
    chosen = devices.choose(device)
    found = {
        "versions": _versions(),
        "device": _device(chosen),
        "cache": _cache(cache_folder()),
        "extras": extras(),
    }
    if not json:
        print("\n".join(_lines(found)), flush=True)
    found["step"] = {"seconds": _step(device)}
    print(
        dumps(found, indent=2) if json else f"{'a step':<10} of demo, saved and all: {found['step']['seconds']:.1f} s"
    )
    missing = [name for name, packages in found["extras"].items() if None in packages.values()]
    if missing and not json:
        info(f"not installed, for who needs them: pip install 'dinokit[{','.join(missing)}]'")
    return found


def extras() -> dict[str, dict[str, str | None]]:
    """Return every extra with its packages and their versions; None: not installed."""
    found: dict[str, dict[str, str | None]] = {
        name: {} for name in metadata("dinokit").get_all("Provides-Extra") or () if name not in OURS
    }
    for line in requires("dinokit") or ():
        package, extra = re.match(r"[\w.-]+", line), re.search(r"extra\s*==\s*['\"]([\w-]+)", line)
        if package and extra and extra[1] in found:
            found[extra[1]][package[0]] = _version(package[0])
    return found


def _versions() -> dict[str, str | None]:
    ours = {"dinokit": __version__, "python": platform.python_version(), "system": platform.platform()}
    return ours | {name: _version(name) for name in LIBRARIES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _device(device: torch.device) -> dict[str, Any]:
    precision = devices.settled(device, "auto")
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "cores": devices.cores(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(devices.memory(device) / 1e9, 1),
        "bf16": devices.has_bf16(device),
        "faster": precision,
        "tflops": round(measured_rate(device, bf16=precision == "bf16") / 1e12, 2),
    }


def _cache(folder: Path) -> dict[str, Any]:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    return {"folder": str(folder), "free_gb": round(shutil.disk_usage(there).free / 1e9, 1)}


def _step(device: str) -> float:
    """Train, save and report one step of `demo` in a folder that goes again; return the seconds of it all."""
    began = time.perf_counter()
    with TemporaryDirectory() as folder, redirect_stderr(StringIO()):  # what a training says of itself
        pretrain("demo", data="demo:fashion", out=Path(folder) / "run", settings={**STEP, "device": device})
    return time.perf_counter() - began


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each thing that there is."""
    machine, cache = found["device"], found["cache"]
    yield f"{'versions':<10} " + ", ".join(f"{name} {value or 'missing'}" for name, value in found["versions"].items())
    room = f"cores {machine['cores']}, threads {machine['threads']}, {machine['memory_gb']:,} GB"
    yield f"{'device':<10} {machine['device']} ({machine['name']}), {room}"
    instructions = "instructions for bf16" if machine["bf16"] else "no instructions for bf16"
    yield f"{'products':<10} {machine['tflops']:,} TFLOP/s in {machine['faster']}, the faster here; {instructions}"
    yield f"{'cache':<10} {cache['folder']}, {cache['free_gb']:,} GB free"
    for name, packages in found["extras"].items():
        yield f"{name:<10} " + ", ".join(f"{package} {value or 'missing'}" for package, value in packages.items())
