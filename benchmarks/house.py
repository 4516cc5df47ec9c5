"""How large is the house, and how many of its rooms does a piece of work pass through?

    python benchmarks/house.py [--against FOLDER]

Counted in the source: lines, functions per 1,000 lines, the length of functions, imports of our own modules per module,
for every room and in all. Counted while running, by a profiler that sees every call: the modules that one training step
of `small-cpu` enters (from one call of the step to the next, so its batch is among them) and those of
`evaluate segmentation` on a tiny folder. --against counts another checkout of the project, with its own code.
"""

import argparse
import ast
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy
from PIL import Image

HERE = Path(__file__).parent.parent
STEPS = 6  # of training; the one before the last is counted


@dataclass
class Room:
    """What the source of a folder holds."""

    files: int = 0
    lines: int = 0
    imports: int = 0  # of our own modules, summed over its files
    lengths: list[int] = field(default_factory=list)  # of its functions, in lines

    def row(self, name: str) -> str:
        """Write the figures as a line of a table."""
        ordered = sorted(self.lengths) or [0]
        dense = len(self.lengths) / max(1, self.lines) * 1000
        tail = ordered[int(0.99 * len(ordered))]
        return (
            f"| {name} | {self.files} | {self.lines:,} | {len(self.lengths):,} | {dense:.1f} | "
            f"{self.imports / max(1, self.files):.2f} | {statistics.median(ordered):g} | {tail} | {ordered[-1]} |"
        )


def rooms(root: Path) -> dict[str, Room]:
    """Count the package at `root` room by room; what lies at its top is a room of its own."""
    found: dict[str, Room] = defaultdict(Room)
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).parts
        text = path.read_text(encoding="utf-8")
        room, imported = found[parts[0] if len(parts) > 1 else "top"], set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                room.lengths.append((node.end_lineno or node.lineno) - node.lineno + 1)
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == root.name:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                places = [(name, root.parent / name.replace(".", "/")) for name in names]
                imported |= {
                    name if place.is_dir() or place.with_suffix(".py").exists() else node.module
                    for name, place in places
                }
        room.files, room.lines, room.imports = (
            room.files + 1,
            room.lines + text.count("\n"),
            room.imports + len(imported),
        )
    return dict(found)


class Walk:
    """Which of our modules are entered, until `until` says that a piece of work is over; then the next begins."""

    def __init__(self, root: Path, starts: Callable[[str, str], bool]) -> None:
        self.root, self.starts = f"{root}/", starts
        self.pieces: list[set[str]] = [set()]

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        """Note a call; what runs because a module is imported does not count."""
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(self.root) or code.co_name == "<module>":
            return
        module = code.co_filename.removeprefix(self.root).removesuffix(".py")
        if self.starts(module, code.co_name):
            self.pieces.append(set())
        self.pieces[-1].add(module)

    def __enter__(self) -> "Walk":
        sys.setprofile(self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)


def passed() -> None:
    """Print the modules of a training step and of an evaluation, those of the package that is imported here."""
    import dinokit

    root = Path(dinokit.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        quiet: dict[str, Any] = {
            "runtime.workers": 0,
            "runtime.eval.tasks": (),
            "runtime.tensorboard": False,
            "runtime.device": "cpu",
            "runtime.log_every": 1000,
            "runtime.health.every": 0,
        }
        short: dict[str, Any] = {"steps": STEPS, "data.batch_size": 16, "stages.anchor": None}
        with Walk(root, lambda module, name: module == "training/step" and name == "step") as walk:
            dinokit.pretrain("small-cpu", data="demo:emoji", out=run, settings=quiet | short)
        print(f"a training step passes {len(walk.pieces[-2])} modules: {', '.join(sorted(walk.pieces[-2]))}")
        data = _annotated(Path(folder) / "pairs")
        with Walk(root, lambda module, name: False) as walk:
            dinokit.evaluate(
                "segmentation",
                model=str(run),
                data=str(data),
                baselines=False,
                device="cpu",
                settings={"protocol": "linear", "iterations": 3, "batch_size": 2},
            )
        print(f"evaluate segmentation passes {len(walk.pieces[-1])} modules: {', '.join(sorted(walk.pieces[-1]))}")


def _annotated(folder: Path) -> Path:
    """Write four images for training and two for measuring, with masks of three classes."""
    draw = numpy.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind, high, shape in (("images", 256, (32, 32, 3)), ("masks", 3, (32, 32))):
            (folder / split / kind).mkdir(parents=True)
            for index in range(count):
                pixels = draw.integers(0, high, shape, dtype=numpy.uint8)
                Image.fromarray(pixels).save(folder / split / kind / f"{index}.png")
    return folder


def main() -> None:
    """Print both, for this checkout or another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, default=HERE, metavar="FOLDER", help="another checkout")
    parser.add_argument("--passed", action="store_true", help=argparse.SUPPRESS)  # the own process of a checkout
    arguments = parser.parse_args()
    if arguments.passed:
        passed()
        return
    found, total = rooms(arguments.against.absolute() / "dinokit"), Room()
    print("| room | files | lines | functions | per 1,000 lines | imports per module | median | 99 % | longest |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, room in sorted(found.items()):
        print(room.row(name))
        total.files, total.lines = total.files + room.files, total.lines + room.lines
        total.imports, total.lengths = total.imports + room.imports, total.lengths + room.lengths
    print(total.row("**all**"), flush=True)
    here = os.environ | {"PYTHONPATH": str(arguments.against.absolute())}
    done = subprocess.run(
        [sys.executable, __file__, "--passed"], env=here, cwd=arguments.against, check=True, capture_output=True
    )
    print("\n".join(line for line in done.stdout.decode().splitlines() if " passes " in line))


if __name__ == "__main__":
    main()
