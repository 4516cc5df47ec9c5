"""The row of views: 2 x 224 + 8 x 96 pixels, JPEGs of 500 x 375, the exact chain, one thread, beside LightlyTrain's."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jpegs
from sides import Figure, compared

from rows.line import Builds, Line

IMAGES, SIZE = 32, (500, 375)
NUMBA, TORCH, PEER = "today, numba", "today, torch", "LightlyTrain"
WANTED = {NUMBA: "at least 2.5", TORCH: ""}


def lines(builds: Builds) -> Iterator[Line]:
    """Compare images per second, also as a share of the peer's; with numba where today's build has it, and without."""
    if builds.photos is None:
        yield Line(measured=f"images/s, of {PEER}'s", of={}, wanted=WANTED[NUMBA], missing="no --photos")
        return
    with tempfile.TemporaryDirectory() as folder:
        jpegs.copy(builds.photos, Path(folder), SIZE, count=IMAGES)
        sides = {
            "old": builds.command("old", *jpegs.ours("dinokit, exact", folder), threads=1),
            TORCH: builds.command("today", *jpegs.ours("dinokit, exact, no numba", folder), threads=1),
        }
        if _has_numba(builds):
            sides[NUMBA] = builds.command("today", *jpegs.ours("dinokit, exact", folder), threads=1)
        if builds.lightly:
            sides[PEER] = jpegs.lightly(builds.lightly, folder)
        found = compared(sides, rounds=builds.rounds)
    for side in (NUMBA, TORCH):
        yield from _beside(side, found)


def _beside(side: str, found: dict[str, Figure]) -> Iterator[Line]:
    rate = {name: IMAGES / figure.seconds for name, figure in found.items()}
    busy = {name: IMAGES / figure.processor for name, figure in found.items()}
    none = "" if side in found else "today's build has no numba: pip install 'dinokit[fast]'"
    for unit, each in (("images/s", rate), ("images/s of a processor", busy)):
        ours = {} if none else {"old": each["old"], "today": each[side]}
        yield Line(measured=f"{side}: {unit}", of=ours, missing=none)
        measured = f"{side}: {unit}, of {PEER}'s"
        if none or PEER not in each:
            yield Line(measured=measured, of={}, wanted=WANTED[side], missing=none or "no --lightly")
        else:
            share = {build: rate / each[PEER] for build, rate in ours.items()}
            yield Line(measured=f"{measured} {each[PEER]:.1f}", of=share, wanted=WANTED[side])


def _has_numba(builds: Builds) -> bool:
    return not subprocess.run(builds.command("today", "-P", "-c", "import numba"), capture_output=True).returncode


ROWS = {"views": lines}
