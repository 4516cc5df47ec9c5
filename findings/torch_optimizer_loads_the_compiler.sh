#!/usr/bin/env bash
# The first optimizer of a program, made of one parameter.
# Expected: an object with a list and a dictionary; no time.
# Happens: torch 2.14.1 loads torch._dynamo and all it needs, torch._inductor's parts and sympy among them: some 900
# modules and nearly as many seconds of a processor as `import torch` itself takes, in every process, although nothing is compiled:
# Optimizer.add_param_group is wrapped so that the compiler leaves it alone, and the wrapper asks the compiler to.
# A program that wants its first step soon calls torch._fused_adamw_ itself (training/adamw).
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 2>/dev/null
"$dir/venv/bin/python" - <<'PY'
import sys
import time

began = time.process_time()
import torch

imported, modules = time.process_time() - began, len(sys.modules)
assert "torch._dynamo" not in sys.modules
began = time.process_time()
torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
made, more = time.process_time() - began, len(sys.modules) - modules
print(f"torch {torch.__version__}: import {imported:.1f} s of a processor, {modules} modules; one AdamW {made:.1f} s, {more} more")
assert "torch._dynamo" in sys.modules, "changed: no compiler is loaded any more"
assert more > 300 and made > imported / 4, "changed: it costs little now"
PY
# Output:
# torch 2.14.1+cu130: import 2.4 s of a processor, 1212 modules; one AdamW 1.9 s, 892 more
