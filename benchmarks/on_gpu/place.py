"""What the checks of benchmarks/gpu.py share: where they run, what they say, how time and memory are taken."""

import gc
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dinokit.core import device as devices


@dataclass(frozen=True)
class Row:
    """One line of the result."""

    name: str
    figure: str
    fault: str = ""  # what is wrong; empty: nothing


@dataclass(frozen=True)
class Place:
    """A device, and whether the sizes are such that a CPU shows in seconds that a check works."""

    device: torch.device
    tiny: bool

    @property
    def bf16(self) -> bool:
        """Whether matrix products run in bfloat16 here unless something else is said."""
        return devices.settled(self.device, "auto") == "bf16"

    @property
    def card(self) -> str:
        """What computes."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"no GPU: {platform.processor() or platform.machine()}, {devices.cores()} cores"

    def wait(self) -> None:
        """Wait for what the device has been given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def forget(self) -> None:
        """Give memory back that nobody holds, and begin to note the peak anew."""
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float:
        """Return the bytes of tensors at the peak since `forget`; 0 where nobody counts them."""
        return float(torch.cuda.max_memory_allocated(self.device)) if self.device.type == "cuda" else 0.0

    def seconds(self, work: Callable[[], object], *, rounds: int = 3) -> float:
        """Return the median time of some work that has been done once before."""
        work()
        found = []
        for _ in range(1 if self.tiny else rounds):
            self.wait()
            began = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - began)
        return statistics.median(found)

    def rate(self) -> float:
        """Return the operations per second of one large product, the fastest of ten."""
        side = 128 if self.tiny else 8192
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        left, right = torch.randn(2, side, side, device=self.device).to(dtype)
        return 2 * side**3 / min(self.seconds(lambda: left @ right, rounds=1) for _ in range(10))


def largest(work: Callable[[int], object], *, first: int, most: int) -> int:
    """Double a batch as long as there is memory for the work on it; return the last one that fitted, 0 if none did."""
    fitted, batch = 0, first
    while batch <= most:
        try:
            work(batch)
        except torch.OutOfMemoryError:
            break
        fitted, batch = batch, 2 * batch
    gc.collect()  # what the one that failed had made hangs on its traceback until here
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return fitted


def percent(share: float) -> str:
    """Write a share."""
    return f"{100 * share:.1f} %"


GOLDEN = Path(__file__).parents[2] / "tests" / "golden"  # numbers of the official repositories
