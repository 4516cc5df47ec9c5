"""macOS and Windows: nothing that they lack is imported or used where it would not be asked for first."""

import ast
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import dinokit
from dinokit.core import lock
from dinokit.core.files import only_owner
from dinokit.core.messages import UserError

HOME = Path(dinokit.__file__).parent
ELSEWHERE = {
    "fcntl",
    "grp",
    "msvcrt",
    "posix",
    "pty",
    "pwd",
    "resource",
    "syslog",
    "termios",
    "tty",
    "winreg",
    "_winapi",
}
LACKING = {  # of Windows
    "os": "fork getpriority getpgid killpg memfd_create mkfifo nice pread pwrite register_at_fork sched_getaffinity "
    "set_blocking setpriority setsid statvfs sysconf waitpid waitstatus_to_exitcode WNOHANG O_NONBLOCK PRIO_PROCESS",
    "signal": "SIGALRM SIGCHLD SIGHUP SIGKILL SIGUSR1 SIGUSR2 pthread_sigmask setitimer",
}
PLACES = {"read_text": 1, "write_text": 2}  # the encoding's among the arguments
ASKS = re.compile(r"sys\.platform|hasattr\(|os\.name|getattr\(")
LINUX = ("core/spare.py", "core/regions.py")  # whose front doors ask: `spares`, `shared`


@cache
def texts() -> dict[str, str]:
    """Return the modules of the package by name."""
    return {path.relative_to(HOME).as_posix(): path.read_text(encoding="utf-8") for path in sorted(HOME.rglob("*.py"))}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of methods with their names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.attr, node


def test_no_module_of_one_system_is_imported_at_the_top() -> None:
    pattern = re.compile(rf"^(?:import|from) ({'|'.join(ELSEWHERE)})\b", re.MULTILINE)
    assert not [(name, pattern.findall(text)) for name, text in texts().items() if pattern.search(text)]


def test_what_windows_lacks_is_asked_for_first() -> None:
    """The function, class or constant that uses it also asks the system what it is or has."""
    pattern = re.compile("|".join(rf"\b{home}\.({'|'.join(names.split())})\b" for home, names in LACKING.items()))
    found = []
    for name, text in texts().items():
        if name in LINUX or not pattern.search(text):
            continue
        parts = [ast.unparse(part) for part in ast.parse(text).body]  # without comments
        found += [(name, part[:200]) for part in parts if pattern.search(part) and not ASKS.search(part)]
    assert not found


def test_text_is_read_and_written_as_utf8() -> None:
    """Windows has another encoding of its own."""
    found = []
    for name, text in texts().items():
        for method, node in calls(ast.parse(text)) if any(f".{each}(" in text for each in PLACES) else ():
            if (
                method in PLACES
                and len(node.args) < PLACES[method]
                and "encoding" not in {k.arg for k in node.keywords}
            ):
                found.append((name, ast.unparse(node)))
    assert not found


def test_batches_and_what_makes_them_can_be_sent_to_processes_that_begin_from_nothing(photos: Path) -> None:
    """As on macOS, on Windows, and from Python 3.14 on: pickled, not inherited."""
    from dinokit.sources.source import open_source
    from dinokit.views.loader import _Built, _quiet_worker
    from tests.views.test_loader import _loader

    loader = _loader(open_source(str(photos)))
    again = pickle.loads(pickle.dumps(_Built(loader)))
    assert again.loader.build(0).indices.tolist() == loader.build(0).indices.tolist()
    assert pickle.loads(pickle.dumps(_quiet_worker)) is _quiet_worker


WITHOUT = """
import os, signal, sys
import torch, torch.distributed, torch.multiprocessing, torch.utils.data
for name in {os}:
    if hasattr(os, name): delattr(os, name)
for name in {signal}:
    if hasattr(signal, name): delattr(signal, name)
if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    from dinokit import cli
    words = ["--steps", "2", "--data.batch_size", "8", "--processes", "1", "--workers", "1", "--device", "cpu"]
    assert cli.run(["pretrain", "demo", "--data", {data!r}, "--out", "run", *words]) == 0
    assert cli.run(["embed", "--model", "run", "--data", {data!r}, "--out", "features"]) == 0
"""


@pytest.mark.slow
def test_a_run_goes_on_without_what_windows_lacks_and_with_loaders_that_are_spawned(
    tmp_path: Path, photos: Path
) -> None:
    """Nothing here is Windows: files have its names, but other locks and another way to remove what is open."""
    # less what Python's own modules need here
    os_names = sorted(set(LACKING["os"].split()) - {"statvfs", "waitpid", "waitstatus_to_exitcode", "WNOHANG"})
    signals = sorted(set(LACKING["signal"].split()) - {"SIGCHLD", "SIGKILL", "pthread_sigmask"})
    script = tmp_path / "run.py"
    script.write_text(WITHOUT.format(os=os_names, signal=signals, data=str(photos)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(HOME.parent), "PATH": "", "DINOKIT_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_a_lock_is_refused_while_another_process_has_it(tmp_path: Path) -> None:
    """`only_owner` says so in one line, whatever system it asks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dinokit.core.files.locked", _taken)
        with pytest.raises(UserError, match="another process writes to"), only_owner(tmp_path):
            pass
    with only_owner(tmp_path), (tmp_path / "other").open("w") as file:
        lock.lock(file, wait=True)


def _taken(file: object, *, wait: bool) -> None:
    raise PermissionError  # what msvcrt says; fcntl says BlockingIOError
