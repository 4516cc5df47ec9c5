"""The command line: one sub-command per file of commands/, no logic.

dinokit COMMAND ...        exit codes: 0 done, 2 your mistake, 3 the run cannot go on, 130 interrupted and saved
"""

import ast
import functools
import inspect
import io
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import tyro

from dinokit import __version__
from dinokit.core.errors import RunError, UserError, unknown_name

HALVES = ("experiment", "runtime")  # may be left out of a dotted key


def commands() -> dict[str, str]:
    """Return every command and what it is for, read off the files' docstrings without importing one."""
    found = {}
    for path in sorted((Path(__file__).parent / "commands").glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name, _, summary = docstring.partition(": ")
        if name == f"`dinokit {path.stem}`":
            found[path.stem] = summary
    return found


def main() -> None:
    """Run the command of the process and exit with its code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name need not be UTF-8
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line and return its exit code; a mistake becomes one line on standard error."""
    try:
        return _dispatch(words)
    except UserError as error:
        return _fail(f"error: {error}", code=2)
    except RunError as error:
        return _fail(f"stopped: {error}", code=3)
    except OSError as error:
        return _fail(f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), code=2)
    except KeyboardInterrupt:
        return _fail("interrupted", code=130)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"dinokit {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in commands():
        raise unknown_name("command", name, commands())
    module = import_module(f"dinokit.commands.{name}")  # here, not at the top: most import torch
    if "-h" in rest or "--help" in rest:
        print(_help(module, name, rest))
        return 0
    code = _parsed(getattr(module, name), name, rest)()
    return code if isinstance(code, int) else 0


def _overview() -> str:
    rows = "\n".join(f"  {name:<10} {summary}" for name, summary in commands().items())
    return (
        f"dinokit {__version__}: self-supervised vision models of the DINO family, from a folder of images\n\n"
        f"usage: dinokit COMMAND ...\n\n{rows}\n\n"
        "  dinokit pretrain demo --data demo:fashion --out runs/demo   a first run, in minutes, on a laptop\n"
        "  dinokit COMMAND --help                                      what a command takes"
    )


def _help(module: ModuleType, name: str, words: Sequence[str]) -> str:
    """Return what a command takes, and where it has settings every one with its default and its meaning."""
    captured = io.StringIO()
    with redirect_stdout(captured), suppress(SystemExit):
        tyro.cli(getattr(module, name), prog=f"dinokit {name}", args=["--help"])
    explained = getattr(module, "explained", None)
    shown = explained(words[:1] if not words[0].startswith("-") else []) if explained else None
    return captured.getvalue() + (_settings(*shown) if shown else "")


def _settings(name: str, config: Any) -> str:
    from dinokit import config as configuration

    lines = [f"\nsettings of '{name}': --KEY VALUE, lists as '[0.4, 1.0]', nothing as null\n"]
    for setting in configuration.explained(config, hidden=HALVES):
        if setting.path == "data":  # an argument of the command itself
            continue
        choices = f"{' | '.join(setting.choices)}; " if setting.choices else ""
        text = f"{choices}{setting.meaning} (default: {setting.value})"
        start = f"  --{setting.path} "
        lines.append(textwrap.fill(f"{start:<42}{text}", width=120, subsequent_indent=" " * 42))
    return "\n".join(lines)


def _parsed(function: Callable[..., Any], name: str, words: list[str]) -> Callable[..., Any]:
    """Bind the words to the function's own signature with tyro; what it does not know are dotted settings."""

    @functools.wraps(function)
    def bind(*args: Any, **kwargs: Any) -> Callable[..., Any]:
        return functools.partial(function, *args, **kwargs)

    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            bound, unknown = tyro.cli(bind, prog=f"dinokit {name}", args=words, return_unknown_args=True)
    except SystemExit as error:
        if error.code in (0, None):
            raise
        raise UserError(_one_line(complaint.getvalue())) from error
    if not unknown:
        return bound
    if "settings" not in inspect.signature(function).parameters:
        known = [f"--{key.replace('_', '-')}" for key in inspect.signature(function).parameters]
        raise unknown_name("option", unknown[0], known)
    from dinokit.config import parse_overrides

    return functools.partial(bound, settings=parse_overrides(unknown))


def _one_line(box: str) -> str:
    """Take the frame off tyro's message."""
    words = re.sub(r"[╭╮╰╯│─]+", " ", box).split()
    return " ".join(words)


def _fail(message: str, *, code: int) -> int:
    with suppress(OSError):  # a terminal that is gone must not change the exit code
        print(" ".join(message.splitlines()), file=sys.stderr)  # a file's name may hold several
    return code
