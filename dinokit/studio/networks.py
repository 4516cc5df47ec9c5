"""The models of a studio: what a page is told of them, and a few of them in memory, one pass at a time.

A run has a network for each of its checkpoints; of all networks the few that were used last stay in memory. All passes
go through one thread, in the order in which they are asked for: a second one at the same time would take as much memory
again and help nobody. Who asks for what is being computed shares it; beyond a bounded number that wait, asking is
refused. When nothing is asked for, the thread has some work of its own.
"""

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from dinokit.checkpoints.load import called, load
from dinokit.checkpoints.store import MODEL, run_and_step
from dinokit.core.messages import UserError, line_of, warn
from dinokit.dense.maps import tried
from dinokit.models.features import Backbone
from dinokit.models.vit import VisionTransformer
from dinokit.studio.images import Unknown

NETWORKS = 3  # in memory
QUEUE = 32  # passes that wait
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Busy(RuntimeError):
    """More is asked for than is worked on; the message is a line."""


@dataclass(frozen=True)
class Model:
    """What is known of a model without its weights."""

    id: str
    name: str
    path: str
    steps: tuple[int, ...] | None  # of a run's checkpoints, ascending; None: no run
    patch: int
    dim: int  # of a patch's feature
    token: int  # of the class token, which differs for raw pixels alone
    heads: int | None
    blocks: int | None


@final
class Networks:
    """Models by a letter; networks are opened by one thread alone."""

    def __init__(self, models: Sequence[tuple[str, str]], *, device: torch.device, heads: int | None = None) -> None:
        """Open each once.

        Args:
            models: what `load` takes, and how it is called in the page.
            heads: of attention, see `load`.

        Raises:
            UserError: if one cannot be loaded, or they want other kinds of images.
        """
        if not 1 <= len(models) <= len(LETTERS):
            raise UserError(f"expected 1 to {len(LETTERS)} models, got {len(models)}")
        self.device, self._heads = device, heads
        self._open: OrderedDict[tuple[str, int | None], Backbone] = OrderedDict()
        self.models: dict[str, Model] = {}
        for id, (path, name) in zip(LETTERS, models, strict=False):
            steps = _steps(path)
            found = self._loaded(path, steps[-1] if steps else None)
            self._remember((id, steps[-1] if steps else None), found)
            kind = (found.config.heads, found.config.depth) if isinstance(found, VisionTransformer) else (None, None)
            width = tried(found)[0].patches.shape[-1]
            self.models[id] = Model(id, name, called(path), steps, found.patch_size, width, found.dim, *kind)
            first = self._open[next(iter(self._open))]
            if (found.channels, found.pixels.white) != (first.channels, first.pixels.white):
                raise UserError(
                    f"expected models of the same images, {models[0][1]} takes {first.channels} channels with white "
                    f"{first.pixels.white}, {name} {found.channels} with {found.pixels.white}; show them apart"
                )

    def at(self, id: str, step: int | None) -> tuple[str, int | None]:
        """Return a model's letter, and which checkpoint is meant where it is a run, or raise Unknown."""
        if id not in self.models:
            raise Unknown(f"expected one of the models {', '.join(self.models)}, got '{id[:40]}'")
        model = self.models[id]
        if model.steps is None and step is not None:
            raise Unknown(f"model {id} is no run and has no steps, got step {step}; leave it out")
        if model.steps is not None and step is not None and step not in model.steps:
            raise Unknown(f"expected a step of {', '.join(map(str, model.steps))}, got {step}")
        return id, step if step is not None or model.steps is None else model.steps[-1]

    def open(self, id: str, step: int | None) -> Backbone:
        """Return a network, or raise Unknown if its checkpoint is gone; by one thread alone.

        Args:
            step: as `at` returns it.
        """
        if (id, step) not in self._open:
            model = self.models[id]
            if step is not None and not (_checkpoint(model.path, step) / MODEL).is_file():
                raise Unknown(f"step {step} of {model.name} is gone; choose another")
            self._remember((id, step), self._loaded(model.path, step))
        self._open.move_to_end((id, step))
        return self._open[id, step]

    def _loaded(self, path: str, step: int | None) -> Backbone:
        backbone = load(path if step is None else _checkpoint(path, step), heads=self._heads)
        backbone.name = called(path)
        return backbone.to(self.device).eval()

    def _remember(self, key: tuple[str, int | None], network: Backbone) -> None:
        self._open[key] = network
        while len(self._open) > NETWORKS:
            self._open.popitem(last=False)


def _checkpoint(path: str, step: int) -> Path:
    return run_and_step(Path(os.path.expanduser(path)))[0].checkpoint(step)


def _steps(path: str) -> tuple[int, ...] | None:
    """List the checkpoints of a run that hold a model; None of what is no run, or has none."""
    run, step = run_and_step(Path(os.path.expanduser(path)))
    found = [each for each in run.steps() if (run.checkpoint(each) / MODEL).is_file()] if step is None else []
    return tuple(found) or None


@final
class Passes:
    """One thread, and what waits for it."""

    def __init__(self) -> None:
        """Start the thread."""
        self._between: Callable[[], bool] = lambda: False
        self._ready = threading.Condition()
        self._waiting: deque[tuple[Hashable, Callable[[], Any]]] = deque()
        self._asked: dict[Hashable, Future[Any]] = {}
        self._restless, self._ended = False, False
        self._thread = threading.Thread(target=self._run, name="passes", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Return how much is asked for and not answered yet."""
        return len(self._asked)

    def ask(self, name: Hashable, work: Callable[[], Any]) -> "Future[Any]":
        """Have something computed; what has the same name is computed once for all who ask meanwhile.

        Raises:
            Busy: if too much waits.
        """
        with self._ready:
            if name in self._asked:
                return self._asked[name]
            if self._ended:
                raise Busy("the studio ends")
            if len(self._waiting) >= QUEUE:
                raise Busy(f"{QUEUE} passes of the network wait already; ask again in a moment")
            self._asked[name] = Future()
            self._waiting.append((name, work))
            self._ready.notify()
            return self._asked[name]

    def meanwhile(self, between: Callable[[], bool]) -> None:
        """Have a piece of work done whenever nothing is asked for, which is false once there is nothing left of it."""
        with self._ready:
            self._between, self._restless = between, True
            self._ready.notify()

    def close(self) -> None:
        """End the thread after what it is doing."""
        with self._ready:
            self._ended = True
            self._ready.notify()
        self._thread.join()

    def _run(self) -> None:
        rest = 0.0  # seconds; as long as the last piece of work of its own took, so that a browser here has its half
        while True:
            with self._ready:
                if self._restless:
                    self._ready.wait_for(lambda: self._waiting or self._ended, timeout=rest)
                else:
                    self._ready.wait_for(lambda: self._waiting or self._ended or self._restless)
                if self._ended:
                    for each in self._asked.values():
                        each.cancel()
                    return
                name, work = self._waiting.popleft() if self._waiting else (None, None)
            if work is None:
                began = time.monotonic()
                self._restless = self._more()
                rest = time.monotonic() - began
                continue
            answer = self._asked[name]
            try:
                found = work()
            except Exception as error:
                answer.set_exception(error)  # whoever asked says it
            else:
                answer.set_result(found)
            with self._ready:
                del self._asked[name]
                self._restless = True  # there may be more for it to do between

    def _more(self) -> bool:
        try:
            return self._between()
        except Exception as error:  # nobody has asked for it: it must not end what somebody asks for
            warn(f"images are no longer embedded in the background: {line_of(error)}")
            self._between = lambda: False
            return False
