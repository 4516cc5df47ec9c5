"""The command line: one sub-command per front-door function, no logic.

dinokit COMMAND ...        exit codes: 0 done, 2 your mistake, 3 the run cannot go on, 130 interrupted and saved
"""

import functools
import inspect
import io
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from importlib import import_module
from typing import Any

import tyro

from dinokit import __version__
from dinokit.core.errors import RunError, UserError, unknown_name

COMMANDS = {
    "pretrain": "train a backbone on a folder of images, or continue the run",
    "distill": "train small students on what a frozen teacher says",
    "evaluate": "measure frozen features beside honest baselines: knn, retrieval, segmentation, ...",
    "predict": "write masks, by a head that evaluate saved or from a few masks",
    "embed": "write the features of every image of a source",
    "convert": "write a model in another layout: official, hf, timm, dinokit",
    "plan": "predict what a run takes, and what settings fit the machines",
    "report": "write RUN/report.html",
    "replay": "take one step of a run again and look into it",
    "data": "look at a source before training: check, stats",
    "models": "list architectures, published weights and recipes",
}


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
    if name not in COMMANDS:
        raise unknown_name("command", name, COMMANDS)
    commands = import_module("dinokit.commands")  # here, not at the top: this imports torch
    if "-h" in rest or "--help" in rest:
        print(commands.help_text(name, rest))
        return 0
    code = _parsed(getattr(commands, name), name, rest, commands.parse_overrides)()
    return code if isinstance(code, int) else 0


def _overview() -> str:
    rows = "\n".join(f"  {name:<10} {summary}" for name, summary in COMMANDS.items())
    return (
        f"dinokit {__version__}: self-supervised vision models of the DINO family, from a folder of images\n\n"
        f"usage: dinokit COMMAND ...\n\n{rows}\n\n"
        "  dinokit pretrain demo --data demo:fashion --out runs/demo   a first run, in minutes, on a laptop\n"
        "  dinokit COMMAND --help                                      what a command takes"
    )


def _parsed(
    function: Callable[..., Any], name: str, words: list[str], overrides: Callable[..., Any]
) -> Callable[..., Any]:
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
    return functools.partial(bound, settings=overrides(unknown))


def _one_line(box: str) -> str:
    """Take the frame off tyro's message."""
    words = re.sub(r"[╭╮╰╯│─]+", " ", box).split()
    return " ".join(words)


def _fail(message: str, *, code: int) -> int:
    with suppress(OSError):  # a terminal that is gone must not change the exit code
        print(" ".join(message.splitlines()), file=sys.stderr)  # a file's name may hold several
    return code
