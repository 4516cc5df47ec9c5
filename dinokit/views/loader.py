"""The training loader: batches as a pure function of (seed, step), whatever the workers, ranks and interruptions.

The global batch of a step consists of `accumulate` micro batches, each shared by all ranks in equal parts. Images and
views depend on the position in the global batch alone; masks are balanced within each micro batch, so that they depend
on `accumulate` but not on the number of ranks. An image that cannot be read is replaced by another one and reported.
"""

import errno
import multiprocessing
import os
import pickle
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from multiprocessing.reduction import ForkingPickler
from typing import final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from dinokit.core.messages import BadImage, RunError, UserError, line_of
from dinokit.core.seed import generator
from dinokit.core.stopping import SIGNALS
from dinokit.images.intensity import Pixels
from dinokit.sources.source import Source, Unusable
from dinokit.views import masking, multicrop

_STREAM = 3  # keeps these random numbers apart from the order (0), the views (1) and the masks (2)
_ATTEMPTS = 32  # replacements tried for one image before the source is given up
_ENDLESS = 1 << 62
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
_NO_FILES = (errno.EMFILE, errno.ENFILE)
_PATIENCE = 1  # seconds after which who waits for a batch looks whether it is still wanted


@dataclass(frozen=True)
class Batch:
    """One rank's part of a micro batch."""

    step: int
    micro: int  # 0 .. accumulate - 1
    views: multicrop.Views | multicrop.Cut
    indices: Int64[np.ndarray, "batch"]  # of the images actually seen, after replacement
    bad: tuple[Unusable, ...]  # which others have replaced
    seconds: float = 0.0  # that it took to build, in whatever process

    def pin_memory(self) -> "Batch":
        """Copy to page-locked memory, whence copies overlap computing."""
        return replace(self, views=multicrop.with_each(self.views, Tensor.pin_memory))


@final
@dataclass(eq=False)
class Loader:
    """Batches of views from any source, from any step on.

    Raises:
        UserError: if a crop size is not a multiple of the patch size, or the normalisation does not fit the channels.
    """

    source: Source
    views_config: multicrop.Config  # crops and distortions
    masking_config: masking.Config | None  # null: no masks (DINO v1)
    pixels: Pixels  # normalisation of the crops
    _: KW_ONLY
    patch_size: int  # of the backbone, pixels; crop sizes must be multiples of it
    batch: int  # images per forward pass, a rank's part of a micro batch
    seed: int
    min_side: int = 1  # pixels; an image with a shorter side is bad
    accumulate: int = 1  # micro batches per step and rank
    rank: int = 0
    world: int = 1
    workers: int = 0  # loader processes; 0 = build the batches in this process. Never changes a number
    pin_memory: bool = False
    distort: bool = True  # false leaves the distortion to whoever takes the crops to a device (`multicrop.Cut`)

    def __post_init__(self) -> None:
        multicrop.check_sizes(self.views_config, patch_size=self.patch_size)
        self.pixels.check_channels(self.source.channels)
        self._order = self.source.order(seed=self.seed, batch=self.global_batch)

    @property
    def global_batch(self) -> int:
        """Images per step over all ranks."""
        return self.batch * self.accumulate * self.world

    def batches(
        self, start: int = 0, stop: int | None = None, *, unwanted: Callable[[], bool] = lambda: False
    ) -> Iterator[Batch]:
        """Yield the micro batches of steps start .. stop (None = without end), `accumulate` per step.

        A loader process that dies is noticed where a batch is waited for, within seconds, and no other is waited for.

        Args:
            unwanted: asked while a batch is waited for; true ends the waiting.

        Raises:
            UserError: if the source holds hardly any readable image.
            RunError: if a loader process was killed, or cannot hand over what it made, or a batch is unwanted.
        """
        numbers = range(start * self.accumulate, _ENDLESS if stop is None else stop * self.accumulate)
        feed: DataLoader[_Made] = DataLoader(
            _Built(self),
            batch_size=None,
            sampler=numbers,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # else the DataLoader would take a number from torch's global generator
            worker_init_fn=_quiet_worker,
            timeout=_PATIENCE if self.workers else 0,
        )
        others = multiprocessing.active_children()
        try:
            _check_room(self.workers)
            batches = iter(feed)
        except OSError as error:
            raise _without_memory(error, error.errno) from error
        workers = [process for process in multiprocessing.active_children() if process not in others]
        if workers and hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
            # torch would raise wherever the program is when a worker dies: in the middle of a step, half of it taken
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            for made in _in_time(batches, unwanted):
                built = made.opened() if isinstance(made, _Parcel) else made
                if isinstance(built, UserError | RunError):
                    raise built
                yield built
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):  # nor what one raised
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
        indices = self._order.indices(step * self.global_batch + first, self.batch)
        images, bad = list[Tensor](), list[Unusable]()
        for position, index in enumerate(indices.tolist()):
            image, indices[position] = self._read(index, step, first + position, bad)
            images.append(image)
        config = self.views_config.at(self.seed, step)
        cut = multicrop.cut(images, config, self.pixels, seed=self.seed, step=step, first=first)
        if self.masking_config is not None:  # balanced over the whole micro batch, of which this rank takes its part
            batch, side = self.batch * self.world, config.global_size // self.patch_size
            masks = masking.sample_masks(
                self.masking_config,
                views=2,
                batch=batch,
                grid=(side, side),
                seed=self.seed,
                step=step,
                first=micro * batch,
            )
            cut = replace(cut, masks=masks[:, self.rank * self.batch :][:, : self.batch])
        made = cut.on(torch.device("cpu")) if self.distort else cut
        return Batch(step, micro, made, indices, tuple(bad), time.perf_counter() - began)

    def _read(self, index: int, step: int, position: int, bad: list[Unusable]) -> tuple[Tensor, int]:
        """Read an image or else random others in its place, a function of seed, step and position; add to the bad."""
        # asked for no less than is demanded, else a large JPEG decoded small would be too small
        min_side = max(self.views_config.min_side, self.min_side)
        for failed in range(1, _ATTEMPTS + 2):
            try:
                image = self.source.read(index, min_side=min_side)
                height, width = image.shape[1:]
                if min(height, width) < self.min_side:
                    raise BadImage(f"too small: {width} x {height} pixels, data.min_side is {self.min_side}")
                return image, index
            except BadImage as error:
                bad.append(Unusable(index, self.source.key(index), str(error)))
            start, stop = self.source.alike(index)
            index = start + int(generator(self.seed, _STREAM, step, position, failed).integers(stop - start))
        example = bad[-_ATTEMPTS - 1]
        raise UserError(
            f"{_ATTEMPTS + 1} images in a row of {self.source.name} could not be read, "
            f"e.g. {example.key}: {example.reason}; check that the files are whole"
        )


@final
@dataclass(frozen=True)
class _Parcel:
    """A batch as a loader process hands it over: pickled there and then, its tensors in shared memory."""

    content: bytes

    def opened(self) -> Batch | RunError:
        """Fetch the tensors from the process, once."""
        try:
            batch: Batch = pickle.loads(self.content)
        except (EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno in _NO_FILES:
                return _without_memory(error, error.errno)
            raise RuntimeError(
                f"DataLoader worker (pid unknown) does not answer: {line_of(error)}"
            ) from error  # as torch
        return batch

    def pin_memory(self) -> Batch | RunError:
        """Fetch them and copy them to page-locked memory; the hook by which torch pins."""
        batch = self.opened()
        return batch.pin_memory() if isinstance(batch, Batch) else batch


_Made = Batch | _Parcel | UserError | RunError


class _Built(Dataset[_Made]):
    """Micro batches by their number, for torch's DataLoader to spread over processes."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __getitem__(self, number: int) -> _Made:
        try:
            built = self.loader.build(*divmod(number, self.loader.accumulate))
        except UserError as error:
            return error  # as a value: raised in a worker it would arrive wrapped in a traceback of the worker
        return built if get_worker_info() is None else _shared(built)


def _shared(built: Batch) -> _Parcel | RunError:
    """Move a batch to memory that the main process sees; torch would do it later, where an error leaves it waiting."""
    try:
        shared = replace(built, views=multicrop.with_each(built.views, Tensor.share_memory_))
        parcel = _Parcel(bytes(ForkingPickler.dumps(shared)))
        for spare in (*os.pipe(), *os.pipe()):  # files that it must have left, with which it answers who fetches
            os.close(spare)
    except RuntimeError as error:
        number = re.search(r": [^:()]+ \((\d+)\)", str(error))  # the system's, behind its words
        if number is None or int(number[1]) not in (*_NO_ROOM, *_NO_FILES):
            raise
        return _without_memory(error, int(number[1]))
    except OSError as error:
        if error.errno not in (*_NO_ROOM, *_NO_FILES):
            raise
        return _without_memory(error, error.errno)
    return parcel


def _without_memory(error: Exception, number: int | None) -> RunError:
    lack, remedy = "has no room", "make /dev/shm larger (docker run --shm-size 2g)"
    if number in _NO_FILES:
        lack, remedy = "takes an open file a tensor", "allow more open files (ulimit -n 65536)"
    return RunError(
        f"loader processes hand over batches in shared memory, which {lack} ({line_of(error)}); {remedy}, "
        "or take --runtime.workers 0 or a smaller --data.batch_size"
    )


def _check_room(workers: int) -> None:
    """Take for a moment what torch needs to start: where there is less, it would leave half of it, which complains.

    Raises:
        OSError: if there is not enough.
    """
    # of a queue two open files and three semaphores: results, a queue and two pipes a process, and what ends them
    _held: list[object] = [multiprocessing.Queue() for _ in range(2 * workers + 3 if workers else 0)]


def _in_time(batches: Iterator[_Made], unwanted: Callable[[], bool]) -> Iterator[_Made]:
    while True:
        try:
            made = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
            if unwanted():
                raise RunError("asked to stop before the loader processes had made a batch") from error
        else:
            yield made


def _quiet_worker(_: int) -> None:
    """Prepare a loader process: one thread, and requests to stop left to the main process, which saves."""
    torch.set_num_threads(1)
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
