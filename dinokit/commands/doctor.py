"""`dinokit doctor`: say what this machine and this installation have, and try a step"""

import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import redirect_stderr
from importlib.metadata import PackageNotFoundError, requires, version
from io import StringIO
from json import dumps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from packaging.requirements import Requirement

from dinokit import __version__
from dinokit.commands.pretrain import pretrain
from dinokit.core import device as devices
from dinokit.core.files import cache_folder
from dinokit.core.messages import RunError, UserError, info, line_of, reason, warn
from dinokit.planning.plan import measured_rate

NEEDED = ""  # in the place of an extra: what every installation has
OURS = ("dev", "docs")  # extras of those who work on dinokit
STEP = {"steps": 1, "data.batch_size": 8, "processes": 1, "workers": 0, "eval.tasks": None, "tensorboard": False}
Packages = dict[str, str]  # name -> version, or what is wrong with it


def doctor(*, device: str = "auto", json: bool = False) -> dict[str, Any]:
    """Say versions, device, cores, memory, cache and which extras are installed, then train one step of `demo`.

    Args:
        device: auto, cpu, cuda or mps.
        json: print JSON, for a report of a fault.

    Raises:
        RunError: if the step fails; what there is was printed before.
    """
    groups = packages(requires_of_dinokit())
    found: dict[str, Any] = {
        "versions": {"dinokit": __version__, "python": platform.python_version(), "system": platform.platform()},
        "packages": groups.pop(NEEDED, {}),
        "extras": groups,
        "device": _device(device),
        "cache": _cache(),
    }
    if not json:
        print("\n".join(_lines(found)), flush=True)
    found["step"] = _step(device)
    failed = found["step"].get("error")
    if json:
        print(dumps(found, indent=2))
    elif failed is None:
        print(f"{'a step':<10} of demo, with its images, checkpoint and report: {found['step']['seconds']:.1f} s")
    if failed is not None:
        raise RunError(f"a step of demo, in a folder of TMPDIR: {failed}")
    lacking = [name for name, each in groups.items() if any(" " in value for value in each.values())]
    if lacking and not json:
        info(f"for who needs them: pip install 'dinokit[{','.join(lacking)}]'")
    return found


def requires_of_dinokit() -> list[str]:
    """Return the packages that this installation asks for, and say so if it is none."""
    try:
        return requires("dinokit") or []
    except PackageNotFoundError:
        warn("dinokit runs from its files and is not installed, so what it needs is not known; run: pip install .")
        return []


def packages(lines: list[str]) -> dict[str, Packages]:
    """Return what is needed (under ""), then every extra, each with its packages and what there is of them."""
    found: dict[str, Packages] = {}
    for need in map(Requirement, lines):
        extra = str(need.marker).partition('extra == "')[2].rstrip('"') if need.marker else NEEDED
        if extra not in OURS:
            found.setdefault(extra, {})[need.name] = _there(need)
    return found


def _there(need: Requirement) -> str:
    try:
        there = version(need.name)
    except PackageNotFoundError:
        return "not installed"
    return there if need.specifier.contains(there, prereleases=True) else f"{there}, too old for {need.specifier}"


def _device(name: str) -> dict[str, Any]:
    device = devices.choose(name)
    wide, narrow = (devices.settled(device, "auto", dim=dim) for dim in (None, 96))
    return {
        "device": str(device),
        "name": devices.called(device),
        "cores": devices.cores(),
        "memory_gb": round(devices.memory(device) / 1e9, 1),
        "bf16": devices.has_bf16(device),
        "amx": devices.has_amx(),
        "precision": {"wide": wide, "demo": narrow},
        "tflops": round(measured_rate(device, bf16=wide == "bf16") / 1e12, 2),
    }


def _cache() -> dict[str, Any]:
    try:
        folder = cache_folder()
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        free = round(shutil.disk_usage(there).free / 1e9, 1)
    except (OSError, RuntimeError) as error:  # no home
        return {"folder": "", "error": reason(error) if isinstance(error, OSError) else line_of(error)}
    usable = there.is_dir() and os.access(there, os.W_OK)
    return {"folder": str(folder), "free_gb": free} | ({} if usable else {"error": f"{there} cannot be written"})


def _step(device: str) -> dict[str, Any]:
    """Train one step of `demo` in a folder that goes again; return the seconds of it all, or why it failed."""
    began, said = time.perf_counter(), StringIO()
    try:
        with TemporaryDirectory() as folder, redirect_stderr(said):  # what a training says of itself
            pretrain("demo", data="demo:fashion", out=Path(folder) / "run", settings={**STEP, "device": device})
    except (UserError, RunError, OSError, RuntimeError) as error:
        return {"error": line_of(error), "said": said.getvalue().splitlines()}
    return {"seconds": time.perf_counter() - began}


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each thing that there is."""
    machine, cache, versions = found["device"], found["cache"], found["versions"]
    yield f"{'dinokit':<10} {versions['dinokit']}, python {versions['python']}, {versions['system']}"
    size = f"cores {machine['cores']}, {machine['memory_gb']:,} GB"
    yield f"{'device':<10} {machine['device']}: {machine['name']}, {size}"
    has = ", ".join(f"{name} {'yes' if machine[name] else 'no'}" for name in ("bf16", "amx"))
    auto = "auto is {wide}, of demo {demo}".format(**machine["precision"])
    yield f"{'products':<10} {has}; {auto}; {machine['tflops']:,} TFLOP/s"
    room = f"{cache['folder']}, {cache['free_gb']:,} GB free" if "free_gb" in cache else "none"
    yield f"{'cache':<10} {room}" + (f"; {cache['error']}: set DINOKIT_CACHE" if "error" in cache else "")
    for name, each in ({"needed": found["packages"]} | found["extras"]).items():
        yield f"{name:<10} " + ", ".join(f"{package} {value}" for package, value in each.items())
