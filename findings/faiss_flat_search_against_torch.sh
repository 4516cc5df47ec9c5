#!/usr/bin/env bash
# Exact nearest neighbours of faiss-cpu (IndexFlatIP, one thread) beside the same products and a maximum in torch.
# Expected: faiss is the fast one; a matrix product and an argmax written by hand can only lose.
# Happens: on an Intel CPU with AVX512 the wheel's OpenBLAS reaches a quarter of what oneDNN or MKL reach in torch, so that the
# plain product with numpy's argmax over all centres takes less than half of faiss's time. The same holds for its Kmeans.
# Here curation/assign.py and curation/neighbours.py use products; faiss is a rival in benchmarks/.
set -euo pipefail
if ! grep -q GenuineIntel /proc/cpuinfo || ! grep -q avx512f /proc/cpuinfo; then echo "needs an Intel CPU with AVX512"; exit 0; fi
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet torch==2.14.1 faiss-cpu==1.15.1 numpy==2.4.6 2>/dev/null
cat > "$dir/check.py" <<'PY'
import time
import faiss
import numpy as np
import torch

torch.set_num_threads(1)
faiss.omp_set_num_threads(1)
draw = np.random.default_rng(0)
rows, centres = (draw.normal(size=(n, 384)).astype(np.float32) for n in (2048, 20_000))
index = faiss.IndexFlatIP(384)
index.add(centres)
a, b = torch.from_numpy(rows), torch.from_numpy(centres).T


def seconds(work):
    work()
    found = []
    for _ in range(3):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found)


theirs, plain = seconds(lambda: index.search(rows, 1)), seconds(lambda: (a @ b).numpy().argmax(axis=1))
print(f"faiss {faiss.__version__} {theirs:.2f} s, torch {torch.__version__} and numpy {plain:.2f} s for 2,048 x 20,000 x 384")
assert plain < 0.6 * theirs, "changed"
PY
OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 "$dir/venv/bin/python" "$dir/check.py"
# Output:
# faiss 1.15.1 1.37 s, torch 2.14.1+cu130 and numpy 0.37 s for 2,048 x 20,000 x 384
