#!/usr/bin/env bash
# Operations of a training step by torch.utils.flop_counter.FlopCounterMode, before and after products are made in place to save a copy.
# Expected: c.baddbmm_(a, b), c.addmm_(a, b) and matrix @ vector count as torch.baddbmm, torch.addmm and matrix @ column do.
# Happens: they count 0, without a word, while the same product with out= counts. A plan of a detector's cost lost a product in each
# attention (5 % of the forward pass) the day its scores were made by baddbmm_. Here planning/traced has an entry of its own for it.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 2>/dev/null
"$dir/venv/bin/python" - <<'PY'
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

a, b, c = torch.randn(4, 8, 16), torch.randn(4, 16, 32), torch.randn(4, 8, 32)
matrix, vector = torch.randn(8, 32), torch.randn(32)


def operations(product: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        product()
    return counter.get_total_flops()


found = {
    "baddbmm": operations(lambda: torch.baddbmm(c, a, b)),
    "baddbmm, out=": operations(lambda: torch.baddbmm(c, a, b, out=torch.empty_like(c))),
    "baddbmm_": operations(lambda: c.clone().baddbmm_(a, b)),
    "addmm": operations(lambda: torch.addmm(c[0], a[0], b[0])),
    "addmm_": operations(lambda: c[0].clone().addmm_(a[0], b[0])),
    "matrix @ column": operations(lambda: matrix @ vector[:, None]),
    "matrix @ vector": operations(lambda: matrix @ vector),
}
print(f"torch {torch.__version__.partition('+')[0]}:", ", ".join(f"{name} {count}" for name, count in found.items()))
assert [*found.values()] == [32768, 32768, 0, 8192, 0, 512, 0], "changed"
PY
# Output:
# torch 2.14.1: baddbmm 32768, baddbmm, out= 32768, baddbmm_ 0, addmm 8192, addmm_ 0, matrix @ column 512, matrix @ vector 0
