"""A copy of a process waits, becomes the command that it is told, and is not made where a thread could be lost."""

from tests.ranks import apart

ALONE = """
import os, tempfile, threading
import torch
from dinokit.core import child
from dinokit.core.spare import spares

def files(count):
    return [tempfile.TemporaryFile() for _ in range(count)]

wrong, right, idle, killed = spares(files(4))
wrong.begin(["nosuch"], {}, threads=1)
right.begin(["--version"], {}, threads=1)
assert (wrong.wait(), right.wait()) == (2, 0)
assert child.last_words(wrong.complaints)[0].startswith("error: unknown command 'nosuch'")
assert idle.poll() is None  # until it is told that nothing comes
idle.dismiss()
assert idle.returncode == -9
killed.kill()
assert killed.wait() == -9
killed.begin(["--version"], {}, threads=1)  # found to have ended by whoever looks
assert killed.poll() == -9

def refused():
    raise BlockingIOError("no more processes")

fork, os.fork = os.fork, lambda: refused() if refusing.pop() else fork()
refusing, there = [True, False], os.listdir("/proc/self/fd")
assert spares(files(2)) == []  # the first ends as well
assert os.listdir("/proc/self/fd") == there
os.fork = fork
waiting = threading.Event()
threading.Thread(target=waiting.wait).start()
assert spares(files(1)) == []
waiting.set()
torch.set_num_threads(2)
torch.ones(512, 512) @ torch.ones(512, 512)  # OpenMP begins a thread, which a copy would wait for
assert spares(files(1)) == []
"""

CLOSED = """
import os, signal, tempfile
from dinokit.core import child
from dinokit.core.spare import spares

def said():
    (spare,) = spares([tempfile.TemporaryFile()])
    spare.begin(["nosuch"], {}, threads=1)
    return spare.wait(), child.last_words(spare.complaints)[0]

code, line = said()
assert code == 2 and line.startswith("error: unknown command"), line
os.open(os.devnull, os.O_RDWR)
os.open(os.devnull, os.O_RDWR)
os.close(0)
assert said() == (2, line)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
assert said() == (0, line)  # what it said is there, how it ended is not
"""


def test_a_copy_is_a_command_of_its_own_and_none_is_made_beside_threads() -> None:
    assert apart(ALONE) == (0, "")


def test_a_copy_needs_no_standard_files_and_nobody_who_waits_for_it() -> None:
    assert apart(CLOSED, closed=(0, 1)) == (0, "")
