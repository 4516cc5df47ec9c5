"""The device is chosen once, here, and so is the precision of its matrix products."""

import ctypes
import math
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from threading import Lock, Thread
from time import thread_time
from typing import Any, Literal

import torch

from dinokit.core.messages import UserError

Precision = Literal["auto", "bf16", "fp32"]

# Numbers of a large matrix to work on at a time: half of a CPU's cache; enough to keep any other device busy.
SLICE = {"cpu": 1 << 20}
_LARGE_SLICE = 1 << 26

# Where "auto" takes bfloat16 on a CPU: a product takes less than this share of float32's time, and tokens are this
# wide; with AMX as wide as the demo's, whose step takes 0.83. Measured shares: 0.17 to 0.35 with AMX, idle or busy,
# 0.43 on an AMD EPYC, 1.4 to 2 on an Intel Xeon with AVX512-BF16 and without AMX (docs/log.md).
GAIN = 0.75
NARROW, NARROW_AMX = 128, 96

_TIMING = Lock()

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # malloc.h of glibc
_LARGE_PAGE, _MAPPINGS = 1 << 21, 1 << 16  # bytes; how many glibc makes by itself


def choose(name: str = "auto") -> torch.device:
    """Return the named device, or with "auto" the first of CUDA, MPS and CPU that this machine has.

    Of several GPUs a rank takes its own, by torchrun's LOCAL_RANK.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name == "cuda":
        # srun may show each rank nothing but its own
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0) if torch.cuda.device_count() > 1 else 0}"
    if name.startswith("cuda"):
        _be_exact()
    ask_for_large_pages()
    try:
        torch.ones(1, device=name).item()  # .item(): the meta device makes tensors, but they hold nothing
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device '{name}' is not usable here ({reason}); expected auto, cpu, cuda or mps") from error
    device = torch.device(name)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for what asks for no device, such as NCCL
    return device


def _be_exact() -> None:
    """Have a GPU multiply float32 as float32, in an order that is always the same."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when the first product is computed
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False


@contextmanager
def repeatable(device: torch.device, wanted: bool = True) -> Iterator[None]:
    """Have the same numbers come out every time, to the bit, in the body: on a CPU they do anyway.

    On a GPU the backward passes of fused attention add to the queries' gradient in whatever order blocks end, unless
    torch is told not to; what has no other way then raises, such as that of F.interpolate.
    """
    if device.type != "cuda" or not wanted:
        yield
        return
    filling: Any = torch.utils.deterministic
    before, filled = torch.get_deterministic_debug_mode(), filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    filling.fill_uninitialized_memory = False  # a pass over all memory that is asked for
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
        filling.fill_uninitialized_memory = filled


def exact(device: torch.device) -> torch.device:
    """Return a device itself, or the CPU beside one that has no float64, such as MPS."""
    return torch.device("cpu") if device.type == "mps" else device


def called(device: torch.device) -> str:
    """Return what a GPU, or beside any other device the processor, calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """Return what this machine's processor calls itself."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def readers(device: torch.device) -> int:
    """Return how many threads of this process read for a device: beside a GPU all that are its own, else two."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(cores(), 2) if device.type == "cpu" else max(cores() // ranks, 2)


def threads(count: int) -> ThreadPoolExecutor:
    """Return threads to work beside the network, each of which runs torch's operations on one core.

    One that runs them on several gets an OpenMP team of its own, and with more threads than cores those of all teams
    sleep between operations instead of waiting for the next: the network in front took 10 % longer (docs/log.md).
    """
    return ThreadPoolExecutor(count, initializer=_alone, initargs=(torch.get_num_threads(),))


def _alone(standard: int) -> None:
    torch.get_num_threads()  # the first time this sets what a thread has: the standard
    torch.set_num_threads(1)  # of this thread, and the standard of all that begin later
    thread = Thread(target=torch.set_num_threads, args=(standard,))
    thread.start()
    thread.join()


def sent(parts: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Stack tensors of one shape on a device; to a GPU through memory that it copies from while it computes."""
    if device.type != "cuda":
        return torch.stack(list(parts)).to(device)
    with torch.cuda.device(device):  # of a thread that has none yet it would be the first GPU, whose memory this takes
        whole = torch.empty((len(parts), *parts[0].shape), dtype=parts[0].dtype, pin_memory=True)
        return torch.stack(list(parts), out=whole).to(device, non_blocking=True)


def memory(device: torch.device) -> float:
    """Return the bytes of memory that there are on a device, or for this process beside a CPU."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    total = _installed()
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):  # of a container
        with suppress(OSError, ValueError):  # no such file, or the word max
            total = min(total, float(int(Path(limit).read_text(encoding="ascii"))))
    return total


def _installed() -> float:
    """Return the bytes of memory of this machine; without end where that is not known."""
    if sys.platform == "win32":
        status = (ctypes.c_uint64 * 8)(
            64
        )  # MEMORYSTATUSEX: two halves of 32 bits, its own length first, then the total
        known = ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return float(status[1]) if known else math.inf
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return math.inf
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def keep_freed_memory(*, sparingly: bool = False) -> None:
    """Have this process keep what it frees and use it again, where the C library is glibc; elsewhere do nothing.

    By default a large tensor's memory goes back to the system with the tensor; the next one is given new pages, and to
    touch them first takes up to ten times as long as the copy or sum that it was made for.

    Args:
        sparingly: keep what is smaller than a large page (2 MiB) alone. Tensors that come and go at other times leave
            holes between them, in which the next ones do not fit: a quarter of what a step of a ViT-S/16 held
            (docs/log.md).
    """
    ask_for_large_pages()
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_PAGE)
        mallopt(_M_MMAP_MAX, _MAPPINGS if sparingly else 0)
        mallopt(_M_TRIM_THRESHOLD, -1)  # never


def ask_for_large_pages() -> None:
    """Have torch ask Linux for pages of 2 MiB, which are given to it 512 times as seldom; before the first tensor."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def settled(device: torch.device, precision: Precision, *, dim: int | None = None) -> Precision:
    """Return in which type matrix products run: "auto" is bfloat16 wherever that is faster.

    On a GPU that is wherever the hardware multiplies it. Of processors some multiply it at twice the rate of float32
    (AMX: at many times), some at half, and their flags are the same; so one product of each is timed, once a process.

    Args:
        dim: width of the network's tokens, None for a wide one. On a CPU one below 128 spends more on converting than
            its products save, with AMX one below 96.
    """
    if precision != "auto":
        return precision
    if not has_bf16(device):
        return "fp32"
    if device.type != "cpu":
        return "bf16"
    wide = dim is None or dim >= (NARROW_AMX if has_amx() else NARROW)
    return "bf16" if wide and _share() < GAIN else "fp32"


def has_fused(device: torch.device) -> bool:
    """Tell whether torch has one operation for all that an optimiser does in a step."""
    return device.type in ("cpu", "cuda")


def has_bf16(device: torch.device) -> bool:
    """Tell whether a device has instructions that multiply bfloat16."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or has_amx()
    return False


def has_amx() -> bool:
    """Tell whether this CPU has Intel's units for products of small matrices."""
    return torch.cpu._is_amx_tile_supported()


@cache
def _share() -> float:
    """Time products in both types on one core, and return bfloat16's share of float32's time; takes 0.05 s."""
    # one at a time, or torch is left with one thread; of several, those that are done wait, and their waiting counts
    with _TIMING, threads(1) as alone:
        return alone.submit(_timed).result()


def _timed() -> float:
    exact = torch.ones(512, 512, dtype=torch.float32)  # whatever is the default
    rounded = exact.bfloat16()
    seconds = {torch.float32: math.inf, torch.bfloat16: math.inf}  # the fastest of each
    with torch.inference_mode():
        for factor in (exact, rounded):
            torch.mm(factor, factor)  # the first product of a thread is the slowest
        for _ in range(10):
            for factor in (exact, rounded):
                seconds[factor.dtype] = min(seconds[factor.dtype], _product(factor))
    return seconds[torch.bfloat16] / seconds[torch.float32]


def _product(factor: torch.Tensor) -> float:
    """Return the seconds of a product, or where the clock steps by more the mean of those that fill a step.

    The thread's clock stands while others use this core; on Windows it moves every 15.6 ms, whatever it says of itself.
    """
    began, products, spent = thread_time(), 0, 0.0
    while not spent:
        torch.mm(factor, factor)
        products += 1
        spent = thread_time() - began
    return spent / products


def autocast(
    device: torch.device, precision: Precision, *, cache: bool = True
) -> Callable[[], AbstractContextManager[Any]]:
    """Return what opens a bfloat16 autocast region, or one that does nothing.

    Args:
        cache: keep rounded weights until the region is left.
    """
    if settled(device, precision) == "bf16":
        return partial(torch.autocast, device.type, dtype=torch.bfloat16, cache_enabled=cache)
    return nullcontext


def slices(device: torch.device, *, rows: int, columns: int) -> list[slice]:
    """Cut `columns` into equal parts, each with as many numbers as are best worked on at a time."""
    width = max(SLICE.get(device.type, _LARGE_SLICE) // max(rows, 1), 1)
    parts = max(-(-columns // width), 1)
    width = -(-columns // parts)
    return [slice(start, min(start + width, columns)) for start in range(0, columns, max(width, 1))]
