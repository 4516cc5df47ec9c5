"""The training loader: batches as a pure function of (seed, step), whatever the workers, ranks and interruptions.

The global batch of a step consists of `accumulate` micro batches, each shared by all ranks in equal parts. Images and
views depend on the position in the global batch alone; masks are balanced within each micro batch, so that they depend
on `accumulate` but not on the number of ranks. An image that cannot be read is replaced by another one and reported.
"""

import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dinokit.core.errors import RunError, UserError
from dinokit.core.seed import generator
from dinokit.core.stopping import SIGNALS
from dinokit.images.intensity import Pixels
from dinokit.sources.sampler import order
from dinokit.sources.source import BadImage, Source
from dinokit.views import masking, multicrop

_STREAM = 3  # keeps these random numbers apart from the order (0), the views (1) and the masks (2)
_ATTEMPTS = 32  # replacements tried for one image before the source is given up
_ENDLESS = 1 << 62


@dataclass(frozen=True)
class BadRecord:
    """An image that could not be used and was replaced."""

    index: int  # in the source
    key: str
    reason: str


@dataclass(frozen=True)
class Batch:
    """One rank's part of a micro batch."""

    step: int
    micro: int  # 0 .. accumulate - 1
    views: multicrop.Views | multicrop.Cut
    indices: Int64[np.ndarray, "batch"]  # of the images actually seen, after replacement
    bad: tuple[BadRecord, ...]
    seconds: float = 0.0  # that it took to build, in whatever process

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory; the hook by which torch's DataLoader pins."""
        return Batch(self.step, self.micro, self.views.pin_memory(), self.indices, self.bad, self.seconds)


@final
class Loader:
    """Batches of views from any source, from any step on.

    Args:
        views_config: crops and distortions.
        masking_config: None = no masks (DINO v1).
        pixels: normalisation of the crops.
        patch_size: of the backbone, pixels; crop sizes must be multiples of it.
        min_side: pixels; an image with a shorter side is bad.
        batch: images per forward pass, a rank's part of a micro batch; the global batch is batch * accumulate * world.
        accumulate: micro batches per step and rank.
        workers: loader processes; 0 = build the batches in this process. Never changes a number.
        prefetch: batches that every worker prepares in advance.
        distort: False leaves the distortion to whoever takes the crops to a device (`views.Cut`).

    Raises:
        UserError: if a crop size is not a multiple of the patch size, or the normalisation does not fit the channels.
    """

    def __init__(
        self,
        source: Source,
        views_config: multicrop.Config,
        masking_config: masking.Config | None,
        pixels: Pixels,
        *,
        patch_size: int,
        batch: int,
        seed: int,
        min_side: int = 1,
        accumulate: int = 1,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
        prefetch: int = 2,
        pin_memory: bool = False,
        distort: bool = True,
    ) -> None:
        multicrop.check_sizes(views_config, patch_size=patch_size)
        pixels.check_channels(source.channels)
        self.source = source
        self.views_config = views_config
        self.masking_config = masking_config
        self.pixels = pixels
        self.patch_size = patch_size
        self.min_side = min_side
        self.batch = batch
        self.accumulate = accumulate
        self.rank = rank
        self.world = world
        self.seed = seed
        self.workers = workers
        self.prefetch = prefetch
        self.pin_memory = pin_memory
        self.distort = distort
        self._order = order(len(source), source.mix, seed=seed, batch=self.global_batch)

    @property
    def global_batch(self) -> int:
        """Images per step over all ranks."""
        return self.batch * self.accumulate * self.world

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[Batch]:
        """Yield the micro batches of steps start .. stop (None = without end), `accumulate` per step.

        A loader process that dies is noticed where a batch is waited for, within seconds, and no other is waited for.

        Raises:
            UserError: if the source holds hardly any readable image.
            RunError: if a loader process was killed.
        """
        numbers = range(start * self.accumulate, _ENDLESS if stop is None else stop * self.accumulate)
        feed: DataLoader[Batch | UserError] = DataLoader(
            _Built(self),
            batch_size=None,
            sampler=numbers,
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # else the DataLoader would take a number from torch's global generator
            worker_init_fn=_quiet_worker,
        )
        others = multiprocessing.active_children()
        batches = iter(feed)
        workers = [process for process in multiprocessing.active_children() if process not in others]
        if workers and threading.current_thread() is threading.main_thread():
            # torch would raise wherever the program is when a worker dies: in the middle of a step, half of it taken
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            for built in batches:
                if isinstance(built, UserError):
                    raise built
                yield built
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            ends = [signal.Signals(-code).name for code in (worker.exitcode or 0 for worker in workers) if code < 0]
            raise RunError(
                f"a loader process was killed ({', '.join(ends) or 'exit'}), as the system does when memory ends; "
                f"take fewer --runtime.workers than {self.workers}, 0 for none, or a smaller --data.batch_size"
            ) from error
        finally:
            for worker in workers:
                worker.kill()  # one may wait for ever for what a dead one held, and Python for it: none hears SIGTERM

    def build(self, step: int, micro: int = 0) -> Batch:
        """Build this rank's part of one micro batch in this process."""
        began = time.perf_counter()
        first = (micro * self.world + self.rank) * self.batch
        images, indices, bad = self._read(step, first)
        masks = None
        if self.masking_config is not None:
            masks = self._masks(self.masking_config, step, micro)[:, self.rank * self.batch :][:, : self.batch]
        config = self.views_config.at(self.seed, step)
        cut = multicrop.cut(images, config, self.pixels, seed=self.seed, step=step, first=first)
        cut = replace(cut, masks=masks)
        made = cut.on(torch.device("cpu")) if self.distort else cut
        return Batch(step, micro, made, indices, tuple(bad), time.perf_counter() - began)

    def _masks(self, config: masking.Config, step: int, micro: int) -> Bool[Tensor, "view batch patch"]:
        """Sample the masks of a whole micro batch, all ranks' parts of it."""
        batch = self.batch * self.world
        first = micro * batch
        side = self.views_config.at(self.seed, step).global_size // self.patch_size
        return masking.sample_masks(
            config, views=2, batch=batch, grid=(side, side), seed=self.seed, step=step, first=first
        )

    def _read(self, step: int, first: int) -> tuple[list[Tensor], Int64[np.ndarray, "batch"], list[BadRecord]]:
        indices = self._order.indices(step * self.global_batch + first, self.batch)
        images: list[Tensor] = []
        bad: list[BadRecord] = []
        for position, index in enumerate(indices.tolist()):
            image, used, failed = self._read_one(index, step, first + position)
            images.append(image)
            indices[position] = used
            bad += failed
        return images, indices, bad

    def _read_one(self, index: int, step: int, position: int) -> tuple[Tensor, int, list[BadRecord]]:
        """Read an image or else random others in its place: a function of seed, step and position like everything."""
        bad: list[BadRecord] = []
        while True:
            try:
                return self._read_large_enough(index), index, bad
            except BadImage as error:
                bad.append(BadRecord(index, self.source.key(index), str(error)))
            if len(bad) > _ATTEMPTS:
                raise UserError(
                    f"{len(bad)} images in a row of {self.source.name} could not be read, "
                    f"e.g. {bad[0].key}: {bad[0].reason}; check that the files are whole"
                )
            first, last = self.source.alike(index)
            index = first + int(generator(self.seed, _STREAM, step, position, len(bad)).integers(last - first))

    def _read_large_enough(self, index: int) -> Tensor:
        # asked for no less than is demanded, else a large JPEG decoded small would be too small
        image = self.source.read(index, min_side=max(self.views_config.min_side, self.min_side))
        height, width = image.shape[1:]
        if min(height, width) < self.min_side:
            raise BadImage(f"too small: {width} x {height} pixels, data.min_side is {self.min_side}")
        return image


class _Built(Dataset[Batch | UserError]):
    """Micro batches by their number, for torch's DataLoader to spread over processes."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            return self.loader.build(*divmod(number, self.loader.accumulate))
        except UserError as error:
            return error  # as a value: raised in a worker it would arrive wrapped in a traceback of the worker


def _quiet_worker(_: int) -> None:
    """Prepare a loader process: one thread, and requests to stop left to the main process, which saves."""
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
