"""A process that is started beside another is this dinokit, and ends with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PARENT = """
import os, subprocess, sys
from dinokit.core import child
process = child.start("waits", environment=os.environ, output=subprocess.PIPE, complaints=sys.stderr)
print(process.stdout.readline().decode(), flush=True)
process.wait()
"""
WAITS = """
import os, time
from dinokit.core import child
child.follow()
print(os.getpid(), flush=True)
time.sleep(60)
"""


def test_a_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "waits.py").write_text(WAITS)
    home = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([home, str(tmp_path)])}
    with subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}/stat").exists() and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
