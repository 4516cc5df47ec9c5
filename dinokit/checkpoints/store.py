"""A run's folder on disk: checkpoints that are whole or absent, and the newest teacher beside them.

    RUN/checkpoints/STEP/state.safetensors   everything that training continues from
    RUN/checkpoints/STEP/state.json          the step and the clocks
    RUN/checkpoints/STEP/model.safetensors   the EMA teacher's backbone
    RUN/model.safetensors                    the newest of these

A checkpoint is written under another name, forced to the disk and renamed; older ones keep only their teacher.
Everything is safetensors and JSON: nothing here can run code when it is read.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dinokit.core.errors import RunError, UserError, reason
from dinokit.core.files import sync, write_atomic, write_json, write_text

STATE, MODEL, CLOCK = "state.safetensors", "model.safetensors", "state.json"


@dataclass(frozen=True)
class RunFolder:
    """The paths of a run and what is written where."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def bad_images(self) -> Path:
        return self.path / "bad_images.jsonl"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def events(self) -> Path:
        return self.path / "events"

    @property
    def model(self) -> Path:
        return self.path / MODEL

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.path / "checkpoints" / str(step)

    def steps(self, *, with_state: bool = False) -> list[int]:
        """List the steps of all whole checkpoints, oldest first; `with_state`: of those to continue from."""
        folder = self.path / "checkpoints"
        found = [p for p in folder.iterdir() if p.name.isdigit()] if folder.is_dir() else []
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
        except OSError as error:
            raise UserError(f"cannot write to {self.path}: {reason(error)}; choose another --out") from error

    def save(
        self,
        step: int,
        *,
        state: Mapping[str, Tensor],
        clock: Mapping[str, Any],
        model: Mapping[str, Tensor],
        about: Mapping[str, str],
        keep: int,
    ) -> Path:
        """Write a checkpoint and the newest teacher, then strip the state from all but the `keep` newest.

        Args:
            about: the model file's header, which lets it be loaded on its own.

        Raises:
            RunError: if the disk refuses (full, gone); what was there before is untouched.
        """
        final = self.checkpoint(step)
        partial = final.with_name(f".{step}.part")
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _save(state, partial / STATE)
            _save(model, partial / MODEL, about)
            write_json(partial / CLOCK, dict(clock))
            for path in (partial / STATE, partial / MODEL, partial):
                sync(path)
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            sync(final.parent)
            self.publish(step)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(partial, ignore_errors=True)
            kept = self.steps(with_state=True)
            newest = f"the newest checkpoint is step {kept[-1]}" if kept else "there is no checkpoint yet"
            raise RunError(
                f"cannot write the checkpoint of step {step}: {error}; {newest}; free space, same command"
            ) from error
        for old in self.steps(with_state=True)[:-keep]:
            (self.checkpoint(old) / CLOCK).unlink()  # first: without it nobody will try to continue from here
            (self.checkpoint(old) / STATE).unlink(missing_ok=True)
        return final

    def publish(self, step: int) -> None:
        """Make a checkpoint's teacher the model of the run."""
        with write_atomic(self.model) as temporary:
            shutil.copyfile(self.checkpoint(step) / MODEL, temporary)

    def load(self, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read a checkpoint's state and clock.

        Raises:
            RunError: if a file is damaged.
        """
        folder = self.checkpoint(step)
        try:
            with safe_open(folder / STATE, framework="pt") as file:
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return state, json.loads((folder / CLOCK).read_text())
        except (OSError, SafetensorError, json.JSONDecodeError) as error:
            raise RunError(
                f"checkpoint {folder} is damaged ({error}); delete that folder to continue from an older one"
            ) from error


def _save(tensors: Mapping[str, Tensor], path: Path, about: Mapping[str, str] | None = None) -> None:
    # clone: safetensors refuses tensors that share memory, such as a head that two objectives use
    save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}, path, dict(about or {})
    )
