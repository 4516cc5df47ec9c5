"""A run's folder on disk: checkpoints that are whole or absent, and the newest teacher beside them.

    RUN/checkpoints/STEP/state.safetensors   everything that training continues from
    RUN/checkpoints/STEP/state/              the same in parts, if the networks were sharded (see sharded.py)
    RUN/checkpoints/STEP/state.json          the step and the clocks
    RUN/checkpoints/STEP/checksums.json      of the files above, but for the clocks
    RUN/checkpoints/STEP/model.safetensors   the EMA teacher's backbone
    RUN/checkpoints/STEP/STUDENT.safetensors of a distillation: each student's average; model.safetensors is the first
    RUN/model.safetensors                    the newest of these, as those of the students
    RUN/anchor.json                          what a stage chose its anchor from, if it did (run/anchoring.py)

A checkpoint is written under another name, forced to the disk and renamed; older ones keep only their teacher.
A damaged one is set aside under a hidden name, never deleted, if an older one can take its place.
Everything is safetensors and JSON: nothing here can run code when it is read.
"""

import json
import re
import shutil
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dinokit.checkpoints import sharded
from dinokit.checkpoints.sharded import Layout
from dinokit.config import from_plain, to_plain
from dinokit.core import dist
from dinokit.core.files import read_json, sync, write_atomic, write_json, write_text
from dinokit.core.messages import RunError, UserError, is_main, reason

STATE, MODEL, CLOCK = "state.safetensors", "model.safetensors", "state.json"
FORMAT = "dinokit"  # entry of a header
PARTS = "state"  # folder in place of STATE
SUMS = "checksums.json"  # name -> CRC-32
_SUM = "crc32"  # in CLOCK, of the rest of it


@dataclass
class Clock:
    """Where a run stands: saved with every checkpoint."""

    step: int = 0  # steps done
    seconds: float = 0.0  # of training, over all starts
    bad_steps: int = 0  # skipped because a loss was not finite
    recent: tuple[int, ...] = ()  # the last of those
    rollbacks: int = 0  # times that the run went back after too many of them
    lr_factor: float = 1.0  # what that left of the learning rate
    ahead: int = 0  # batches that were passed over with it: a step takes that of so many steps later


@dataclass
class RunFolder:
    """The paths of a run and what is written where."""

    path: Path

    def __post_init__(self) -> None:
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.bad_images = self.path / "bad_images.jsonl"
        self.bad_steps = self.path / "bad_steps.jsonl"
        self.environment = self.path / "environment.json"
        self.events = self.path / "events"
        self.anchor = self.path / "anchor.json"
        self.guard = self.path / "guard.jsonl"  # of an adaptation: what was measured of its teachers
        self.model = self.path / MODEL

    def started(self) -> dict[str, Any]:
        """Return what the last start noted of machine and images; nothing if that is absent or damaged."""
        with suppress(UserError):
            noted = read_json(self.environment)
            return noted if isinstance(noted, dict) else {}
        return {}

    def begun_by(self, verb: str) -> str:
        """Return the command of this verb that the run was begun with, as a person types it."""
        noted = self.started()
        commands = (str(each.get("command")) for each in (*noted.get("earlier", []), noted))
        rests = (command.partition(" ")[2] for command in commands)  # without dinokit, or the file that ran it
        return next((f"dinokit {rest}" for rest in rests if rest.split(" ")[0] == verb), f"dinokit {verb} as before")

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.path / "checkpoints" / str(step)

    def steps(self, *, with_state: bool = False) -> list[int]:
        """List the steps of all whole checkpoints, oldest first; `with_state`: of those to continue from."""
        folder = self.path / "checkpoints"
        found = [p for p in folder.iterdir() if re.fullmatch("0|[1-9][0-9]*", p.name)] if folder.is_dir() else []
        return sorted(int(p.name) for p in found if not with_state or (p / CLOCK).exists())

    def create(self, config: str) -> None:
        """Make the folder, or take it over for another start; remove what a killed start left half written.

        Args:
            config: the text of config.yaml.

        Raises:
            UserError: if it cannot be written to.
        """
        try:
            write_text(self.config, config)  # first: without it the folder would pass for somebody else's
            (self.path / "checkpoints").mkdir(exist_ok=True)
            for leftover in (self.path / "checkpoints").glob(".*.part"):
                shutil.rmtree(leftover)
            self.clear()
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {reason(error)}; choose another --out") from error

    def clear(self) -> None:
        """Remove what a killed owner left half written of weights, logs and numbers; the owner alone may call."""
        for kind in ("safetensors", "json", "jsonl"):
            for leftover in self.path.glob(f".*.{kind}.*.part"):
                leftover.unlink(missing_ok=True)

    def save(
        self,
        step: int,
        *,
        state: Mapping[str, Tensor],
        clock: Clock,
        models: Mapping[str, tuple[Mapping[str, Tensor], Mapping[str, str]]],
        keep: int,
    ) -> Path:
        """Write a checkpoint and the newest models, then strip the state from all but the `keep` newest.

        Rank 0 writes; of a sharded state all ranks write, so all must call together.

        Args:
            models: by the name of their file, one of which is MODEL: weights, and their header.

        Raises:
            RunError: if the disk refuses (full, gone); what was there before is untouched.
        """
        final = self.checkpoint(step)
        partial = final.with_name(f".{step}.part")
        try:
            if is_main():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
            if sharded.is_sharded(state):
                sharded.save(state, partial / PARTS)
            else:
                _save(state, partial / STATE)
            if not is_main():
                return final
            for name, (model, about) in models.items():
                _save(model, partial / name, about)
            files = sorted(path for path in partial.rglob("*") if path.is_file())
            write_json(partial / SUMS, {path.relative_to(partial).as_posix(): _crc32(path) for path in files})
            _write_clock(partial / CLOCK, clock)
            for path in (*partial.rglob("*"), partial):
                sync(path)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync(final.parent)
            self.publish(step)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = self.steps(with_state=True)
            newest = f"the newest checkpoint is step {kept[-1]}" if kept else "there is no checkpoint yet"
            said = f"cannot write the checkpoint {final}: {error}; {newest}; free space, same command"
            raise RunError(said) from error
        for old in map(self.checkpoint, self.steps(with_state=True)[:-keep]):
            (old / CLOCK).unlink()  # first: without it nobody will try to continue from here
            (old / STATE).unlink(missing_ok=True)
            shutil.rmtree(old / PARTS, ignore_errors=True)
        return final

    def amend(self, clock: Clock) -> None:
        """Change the clocks of a checkpoint that is there."""
        _write_clock(self.checkpoint(clock.step) / CLOCK, clock)

    def published(self, name: str = MODEL) -> int:
        """Return the step of a model of the run, by its header; 0 if there is none that can be read."""
        try:
            with safe_open(self.path / name, framework="pt") as file:
                about = (file.metadata() or {}).get(FORMAT, '{"step": 1}')  # what is not ours is not to be lost
            return int(json.loads(about)["step"])
        except (OSError, SafetensorError, ValueError, KeyError, TypeError):
            return 0

    def publish(self, step: int) -> None:
        """Make a checkpoint's models those of the run, but for one that has learned longer; RunError if it has none."""
        if not (self.checkpoint(step) / MODEL).is_file():
            raise self._damaged(step, f"it has no {MODEL}")
        for model in self.checkpoint(step).glob("*.safetensors"):
            if model.name != STATE and self.published(model.name) <= step:
                with write_atomic(self.path / model.name) as temporary:
                    shutil.copyfile(model, temporary)

    def load(self, step: int, layout: Layout = sharded.whole) -> tuple[dict[str, Tensor], Clock]:
        """Read a checkpoint's state and clock.

        Args:
            layout: what a tensor is read into, by name, shape and dtype: whole, or this rank's rows of it.

        Raises:
            RunError: if a file is damaged.
        """
        try:
            return self._state(step, layout), self.clock(step)
        except (OSError, SafetensorError, ValueError) as error:
            raise self._damaged(step, error) from error

    def _state(self, step: int, layout: Layout) -> dict[str, Tensor]:
        parts = self.checkpoint(step) / PARTS
        if parts.is_dir():
            return sharded.load(parts, layout)
        state = {}
        with safe_open(self.checkpoint(step) / STATE, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a mapping)
                value = file.get_tensor(name)
                state[name] = layout(name, value.shape, value.dtype)
                dist.fill(state[name], value)
        return state

    def set_damaged_aside(self) -> list[str]:
        """Rename the newest checkpoints until one can be continued from; return a line about each that was renamed.

        Every byte is read and held against its checksum; checkpoints without any are judged by their headers.

        Raises:
            RunError: if there are checkpoints but none to continue from; then nothing is renamed.
        """
        if not self.steps():
            return []
        faults: dict[int, str] = {}
        for step in reversed(self.steps(with_state=True)):
            fault = self.fault(step)
            if not fault:
                return [self._set_aside(bad, found, instead=step) for bad, found in faults.items()]
            faults[step] = fault
        newest = self.steps()[-1]
        raise self._damaged(newest, faults.get(newest, f"it has no {CLOCK}"))

    def fault(self, step: int) -> str:
        """Say what is wrong with a checkpoint, nothing if it can be continued from."""
        try:
            _verify(self.checkpoint(step))
            if (self.checkpoint(step) / PARTS).is_dir():
                sharded.contents(self.checkpoint(step) / PARTS)
            else:
                with safe_open(self.checkpoint(step) / STATE, framework="pt"):
                    pass
            self.clock(step)
        except (FileNotFoundError, SafetensorError, ValueError) as error:
            return str(error)
        except OSError as error:  # a disk that does not answer now may do so later: no reason to pass it over
            raise RunError(f"cannot read checkpoint {self.checkpoint(step)}: {reason(error)}") from error
        return "" if (self.checkpoint(step) / MODEL).is_file() else f"it has no {MODEL}"

    def clock(self, step: int) -> Clock:
        """Read the clocks of a checkpoint; a ValueError or OSError says what is wrong with them."""
        plain = json.loads((self.checkpoint(step) / CLOCK).read_text(encoding="utf-8"))
        noted = plain.pop(_SUM, None) if isinstance(plain, dict) else None
        if noted not in (None, _crc32_of(plain)):  # early versions noted none
            raise ValueError(f"{CLOCK} was changed")
        clock = from_plain(Clock, plain)
        if clock.step != step:
            raise ValueError(f"{CLOCK} is of step {clock.step}")
        return clock

    def _set_aside(self, step: int, fault: str, *, instead: int) -> str:
        folder = self.checkpoint(step)
        aside = folder.with_name(f".damaged-{step}")
        while aside.exists():
            aside = aside.with_name(f"{aside.name}+")
        try:
            folder.rename(aside)
        except OSError as error:
            raise RunError(
                f"checkpoint {folder} is damaged ({fault}) and cannot be renamed: {reason(error)}"
            ) from error
        return f"checkpoint {folder} is damaged ({fault}); kept as {aside.name}, continuing from step {instead}"

    def _damaged(self, step: int, fault: object) -> RunError:
        others = [other for other in self.steps(with_state=True) if other < step and not self.fault(other)]
        teachers = [other for other in self.steps() if other != step]
        left = "nothing else is saved; restore it from a copy or start again in another --out"
        if teachers:
            left = f"of other steps ({', '.join(map(str, teachers))}) only the teacher is left; restore it from a copy"
        if others:
            left = f"rename that folder to continue from step {others[-1]}"
        return RunError(f"checkpoint {self.checkpoint(step)} is damaged ({fault}); {left}")


def run_and_step(path: Path) -> tuple[RunFolder, int | None]:
    """Read RUN/checkpoints/STEP as a step of a run, and anything else as a run."""
    if path.parent.name == "checkpoints" and path.name.isdigit():
        return RunFolder(path.parent.parent), int(path.name)
    return RunFolder(path), None


def header(architecture: Any, pixels: Any, *, step: int, licence: str | None = None) -> dict[str, str]:
    """Return what a weights file says of itself, so that it can be loaded on its own.

    Args:
        architecture: settings of the network.
        pixels: of the images that it wants.
        licence: of weights that others published; the user's own carry none.
    """
    about = {"architecture": to_plain(architecture), "pixels": to_plain(pixels), "step": step}
    if licence is not None:
        about["licence"] = licence
    return {FORMAT: json.dumps(about)}  # one entry: safetensors writes several in random order


def licence_of(file: Path) -> str | None:
    """Return the licence that a weights file of ours was written with; None if it carries none."""
    with safe_open(file, framework="pt") as opened:
        licence: str | None = json.loads((opened.metadata() or {}).get(FORMAT, "{}")).get("licence")
    return licence


def _write_clock(path: Path, clock: Clock) -> None:
    plain = asdict(clock)
    write_json(path, plain | {_SUM: _crc32_of(plain)})


def _save(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str] | None = None) -> None:
    # clone: safetensors refuses tensors that share memory, such as a head that two objectives use
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path, dict(about or {})
    )


def _verify(folder: Path) -> None:
    """Read every file that has a checksum; a folder without checksums passes, as early versions noted none."""
    if not (folder / SUMS).exists():
        return
    noted = json.loads((folder / SUMS).read_text(encoding="utf-8"))
    if not isinstance(noted, dict):
        raise ValueError(f"{SUMS} is not of this kind")
    for name, value in noted.items():
        if not (folder / name).exists():
            raise FileNotFoundError(f"{name} is missing")
        if _crc32(folder / name) != value:
            raise ValueError(f"{name} is not what was written: its checksum differs")


def _crc32(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _crc32_of(plain: object) -> int:
    """Return the CRC-32 of plain values, whatever the order of their keys and the spaces between them."""
    return zlib.crc32(json.dumps(plain, sort_keys=True).encode())
