"""What a process does with the memory that it has freed, and with its threads."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from time import sleep

import pytest
import torch

from dinokit.core import device
from dinokit.core.device import NARROW, NARROW_AMX, autocast, has_bf16, settled, threads

CPU = torch.device("cpu")

# activations of 64 MB, more than glibc keeps by itself
_TRAIN = """
import resource
import torch
from dinokit.core.device import keep_freed_memory

keep_freed_memory()
network = torch.nn.Sequential(torch.nn.Linear(64, 8192), torch.nn.GELU(), torch.nn.Linear(8192, 64))
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    network(torch.ones(2048, 64)).sum().backward()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(faults[0], min(faults[-3:]))
"""


@pytest.mark.slow  # a process of its own, and no number depends on it
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries cannot be told")
def test_later_steps_touch_no_new_pages() -> None:
    small = os.environ | {"THP_MEM_ALLOC_ENABLE": "0"}  # pages of 4 KiB, which are many
    said = subprocess.run([sys.executable, "-c", _TRAIN], capture_output=True, text=True, check=True, env=small).stdout
    first, later = map(int, said.split())
    assert first > 10_000
    assert later < first / 100


# 64 tensors of 4 MB, every other of which goes: holes that no larger one fits
_HOLES = """
import torch
from dinokit.core.device import keep_freed_memory

def held():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) / 1000

for sparingly in (False, True):
    keep_freed_memory(sparingly=sparingly)
    tensors = [torch.ones(1 << 20) for _ in range(64)]
    before = held()
    del tensors[::2]
    print(before - held())
"""


@pytest.mark.slow  # a process of its own, and no number depends on it
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries cannot be told")
def test_holes_between_tensors_are_given_back_where_memory_is_kept_sparingly() -> None:
    said = subprocess.run([sys.executable, "-c", _HOLES], capture_output=True, text=True, check=True).stdout
    keeps, gives = map(float, said.split())
    assert keeps < 10
    assert gives > 50  # MB, of 67: the other half lies in the holes that were kept


@pytest.fixture
def three_cores() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_cores")
def test_threads_beside_the_network_take_one_core_each_and_leave_the_others_theirs() -> None:
    with threads(2) as beside:
        assert list(beside.map(lambda _: torch.get_num_threads(), range(8))) == [1] * 8
    with ThreadPoolExecutor(1) as later:
        assert later.submit(torch.get_num_threads).result() == 3
    assert torch.get_num_threads() == 3


def test_a_precision_that_is_named_is_taken_and_auto_is_one_of_both() -> None:
    assert [settled(CPU, name) for name in ("bf16", "fp32")] == ["bf16", "fp32"]
    assert settled(CPU, "auto") == settled(CPU, settled(CPU, "auto")) == settled(CPU, "auto", dim=NARROW)
    assert has_bf16(CPU) or settled(CPU, "auto") == "fp32"


@pytest.mark.parametrize(("share", "expected"), [(0.43, "bf16"), (0.9, "fp32"), (1.4, "fp32")])
def test_auto_is_bf16_where_its_products_are_clearly_faster(
    share: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an AMD EPYC, within the noise of a busy machine, and on an Intel Xeon without AMX (docs/log.md)."""
    monkeypatch.setattr(device, "_share", lambda: share)
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    assert settled(CPU, "auto") == settled(CPU, "auto", dim=NARROW) == expected
    monkeypatch.setattr(device, "has_bf16", lambda _: False)
    assert settled(CPU, "auto") == "fp32"


def test_products_are_timed_by_a_clock_that_steps_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where one product and the next are read at the same time."""
    read = count()
    monkeypatch.setattr(device, "thread_time", lambda: next(read) // 4 * 0.0156)
    assert 0 < device._share.__wrapped__() < float("inf")


@pytest.mark.parametrize(
    ("amx", "share", "expected"), [(True, 0.35, "bf16"), (True, 0.9, "fp32"), (False, 0.43, "fp32")]
)
def test_narrow_networks_multiply_in_bf16_where_amx_makes_that_faster(
    amx: bool, share: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With AMX at the largest share timed beside busy processes, and on an AMD EPYC without it (docs/log.md)."""
    monkeypatch.setattr(device, "_share", lambda: share)
    monkeypatch.setattr(device, "has_amx", lambda: amx)
    monkeypatch.setattr(device, "has_bf16", lambda _: True)
    assert settled(CPU, "auto", dim=NARROW - 1) == settled(CPU, "auto", dim=NARROW_AMX) == expected
    assert settled(CPU, "auto", dim=NARROW_AMX - 1) == "fp32"
    assert settled(CPU, "bf16", dim=NARROW_AMX - 1) == "bf16"
    with autocast(CPU, settled(CPU, "auto", dim=NARROW - 1))():
        multiplied = (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    assert multiplied == (torch.bfloat16 if expected == "bf16" else torch.float32)


@pytest.mark.usefixtures("three_cores")
def test_products_are_timed_on_one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several, those that are done wait for the others, and their waiting counts."""
    used = set()

    def product(factor: torch.Tensor) -> float:
        used.add(torch.get_num_threads())
        return 1.0

    monkeypatch.setattr(device, "_product", product)
    assert device._share.__wrapped__() == 1.0
    assert used == {1}
    assert torch.get_num_threads() == 3


def test_who_asks_for_the_precision_at_once_leaves_torch_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_timed", lambda: sleep(0.002))
    monkeypatch.setattr(device, "_share", device._share.__wrapped__)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        for _ in range(20):
            with ThreadPoolExecutor(6) as asking:
                list(asking.map(lambda _: device._share(), range(6)))
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == 4
    finally:
        torch.set_num_threads(before)
