"""Where the numbers of a run go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow, Trackio.

Each takes the same flat names and the step. A run that continues, or that goes back to a checkpoint, continues the same
entry: what the services call it is kept in RUN/events/trackers.json. Where they write to is their own business, by
their own environment variables: WANDB_PROJECT and WANDB_MODE, MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME,
TRACKIO_PROJECT and TRACKIO_DIR. Nothing is sent unless `runtime.trackers` names it, and a service that fails never ends
a run.
"""

import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from functools import cached_property, partial
from importlib.util import find_spec
from io import StringIO
from json import loads
from typing import Any

from dinokit.checkpoints.store import RunFolder
from dinokit.config import flat, to_plain
from dinokit.core.files import write_json
from dinokit.core.messages import UserError, info, library, line_of, warn
from dinokit.training.config import TrackerName, TrainConfig

PROJECT = "dinokit"  # if the environment names no other


class Tracker(ABC):
    """Takes numbers by name at a step."""

    identity: str | None = None  # what the service calls this run, to continue it; None if it needs no reminder

    @abstractmethod
    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Write down finite numbers; a step may come again after the run went back."""

    @abstractmethod
    def close(self) -> None:
        """Write out what is buffered."""


class TensorBoard(Tracker):
    """Event files in RUN/events; written where it is installed (extra `tensorboard`), unless it is switched off."""

    def __init__(self, run: RunFolder, *, start: int) -> None:
        self.run, self.start = run, start

    @cached_property
    def writer(self) -> Any:
        from torch.utils.tensorboard import SummaryWriter  # here: it imports for as long as a step of the demo takes

        return SummaryWriter(str(self.run.events), purge_step=self.start)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        if "writer" in vars(self):
            self.writer.close()


class Wandb(Tracker):
    """Weights & Biases; with WANDB_MODE=offline the files stay in RUN/events/wandb until `wandb sync`."""

    def __init__(self, run: RunFolder, settings: Mapping[str, Any], *, known: str | None) -> None:
        wandb = library("wandb", extra="wandb")
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=run.path.name,
            id=known or uuid.uuid4().hex,
            resume="allow",
            dir=run.events,
            config=dict(settings),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self.identity = str(self.run.id)
        # the service's own step never goes back, a run may
        self.run.define_metric("step")
        self.run.define_metric("*", step_metric="step")

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.run.log({"step": step, **values})

    def close(self) -> None:
        self.run.finish()


class Mlflow(Tracker):
    """MLflow, at MLFLOW_TRACKING_URI."""

    def __init__(self, run: RunFolder, settings: Mapping[str, Any], *, known: str | None) -> None:
        mlflow = library("mlflow", extra="mlflow")
        self.metric = mlflow.entities.Metric
        self.client = mlflow.MlflowClient()
        if known is None:
            project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            found = self.client.get_experiment_by_name(project)
            experiment = found.experiment_id if found else self.client.create_experiment(project)
            known = str(self.client.create_run(experiment, run_name=run.path.name).info.run_id)
            chosen = [mlflow.entities.Param(key, str(value)[:500]) for key, value in settings.items()]
            for first in range(0, len(chosen), 100):  # the service takes so many at once
                self.client.log_batch(known, params=chosen[first : first + 100])
        else:
            self.client.update_run(known, status="RUNNING")
        self.identity = known

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(
            self.identity, metrics=[self.metric(name, value, now, step) for name, value in values.items()]
        )

    def close(self) -> None:
        self.client.set_terminated(self.identity)


class Trackio(Tracker):
    """Trackio, on this machine in TRACKIO_DIR; `trackio show` opens it."""

    def __init__(self, run: RunFolder, settings: Mapping[str, Any], *, known: str | None) -> None:
        self.identity = known or f"{run.path.name}-{uuid.uuid4().hex[:6]}"
        with redirect_stdout(StringIO()):  # it greets there
            self.run = library("trackio", extra="trackio").init(
                project=os.environ.get("TRACKIO_PROJECT", PROJECT),
                name=self.identity,
                resume="allow",
                config=dict(settings),
                embed=False,
            )

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        self.run.log(dict(values), step=step)

    def close(self) -> None:
        with redirect_stdout(StringIO()):
            self.run.finish()


# each opens the entry of a run with its settings, flat, and the identity it had before, if the run is continued
KINDS: dict[TrackerName, Callable[..., Tracker]] = {"wandb": Wandb, "mlflow": Mlflow, "trackio": Trackio}


class Trackers:
    """All that were asked for; one that fails is named once and left out from then on."""

    def __init__(self, run: RunFolder, config: TrainConfig, *, start: int) -> None:
        """Open them.

        Args:
            start: first step that will be logged; TensorBoard forgets what it has from there on.

        Raises:
            UserError: if one that was asked for is not installed or refuses to begin.
        """
        tensorboard = config.runtime.tensorboard and find_spec("tensorboard") is not None
        if config.runtime.tensorboard and not tensorboard:
            info("no events for TensorBoard: pip install 'dinokit[tensorboard]'; metrics.jsonl has all numbers")
        if tensorboard or config.runtime.trackers:
            run.events.mkdir(exist_ok=True)
        self.open: dict[str, Tracker] = {}
        if tensorboard:
            self.open["tensorboard"] = TensorBoard(run, start=start)
        memory = run.events / "trackers.json"
        known: dict[str, str] = {}
        with suppress(OSError, ValueError, AttributeError):  # absent or damaged: they begin anew
            known = {name: str(identity) for name, identity in loads(memory.read_text(encoding="utf-8")).items()}
        settings = flat(to_plain(config.experiment))
        for name in config.runtime.trackers:
            try:
                self.open[name] = KINDS[name](run, settings, known=known.get(name))
            except UserError:
                raise
            except Exception as error:  # what services raise has no common name
                raise UserError(f"{name} cannot begin ({line_of(error)}); see its settings, or leave it out") from error
        found = {name: tracker.identity for name, tracker in self.open.items() if tracker.identity}
        if found:
            write_json(memory, known | found)

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """Hand the numbers to each."""
        for name, tracker in list(self.open.items()):
            self._tried(name, partial(tracker.log, values, step=step))

    def close(self) -> None:
        """Close each."""
        for name, tracker in list(self.open.items()):
            self._tried(name, tracker.close)
        self.open.clear()

    def _tried(self, name: str, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            warn(f"{name} failed ({line_of(error)}) and gets no more numbers of this start; metrics.jsonl has all")
            self.open.pop(name)
