#!/usr/bin/env bash
# torch.set_num_threads reads like a setting of the process, get_num_threads like its value; some swear it is one of the thread that calls it.
# Expected: one or the other, so that a main thread which set 3 has 3, or has what was set last.
# Happens: it is both. A call sets the number of the calling thread and the standard of the process; a thread takes the standard once, at its first
# parallel operation or its first get_num_threads, and that undoes what it has set itself before. So the number of the main thread depends on
# whether it has asked for it before another thread set another.
# Here core/device.threads asks first, sets its own number, and gives the standard back.
set -euo pipefail
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv" && "$dir/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6 2>/dev/null
run() { OMP_NUM_THREADS=2 "$dir/venv/bin/python" - "$1" <<'PY'
import sys, threading
import torch

asks = sys.argv[1] == "asks"
torch.set_num_threads(3)
if asks:
    torch.get_num_threads()
other = threading.Thread(target=torch.set_num_threads, args=(1,))
other.start()
other.join()
found = torch.get_num_threads()
print(f"torch {torch.__version__.partition('+')[0]}: main sets 3{', asks,' if asks else ','} another thread sets 1: main has {found}")
assert found == (3 if asks else 1), "changed"
PY
}
run silent
run asks
# Output:
# torch 2.14.1: main sets 3, another thread sets 1: main has 1
# torch 2.14.1: main sets 3, asks, another thread sets 1: main has 3
