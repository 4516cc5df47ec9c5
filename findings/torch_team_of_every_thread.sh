#!/usr/bin/env bash
# Threads of Python that prepare images with torch beside a network: each operation on more than a few thousand numbers is parallel.
# Expected: they share the pool of threads that torch has.
# Happens: every thread that runs one gets an OpenMP team of its own, which stays: with teams of 2, 4 readers bring 8 threads to the system
# instead of 4. Once there are more of them than cores, libgomp lets all teams sleep at barriers, and the forward pass of a ViT-S in the main thread, which
# has thousands of barriers, took 10 % longer on two cores although the readers did nothing most of the time.
# Here core/device.threads gives the readers one core each.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 2>/dev/null
OMP_NUM_THREADS=2 "$dir/venv/bin/python" - <<'PY'
import os
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import torch

READERS = 4
all_at_once = Barrier(READERS)


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def read(_: int) -> int:
    all_at_once.wait()
    (torch.ones(1 << 20) + 1).sum()
    all_at_once.wait()
    return threads()


(torch.ones(1 << 20) + 1).sum()
before = threads()
with ThreadPoolExecutor(READERS) as pool:
    during = max(pool.map(read, range(READERS)))
print(f"torch {torch.__version__.partition('+')[0]}: {READERS} readers bring {during - before} threads, teams of {torch.get_num_threads()}")
assert during - before == 4 * 2 == READERS * torch.get_num_threads(), "changed"
PY
# Output:
# torch 2.14.1: 4 readers bring 8 threads, teams of 2
