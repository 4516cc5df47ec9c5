"""The command line: one sub-command per file of commands/, no logic.

dinokit COMMAND ...        exit codes: 0 done, 1 made and found wrong, 2 your mistake, 3 the run cannot go on,
                           130 interrupted and saved

A verb is a function. What its signature has before `*` are words in their order, what follows are options (a bool is
--NAME or --no-NAME, a tuple takes all words up to the next option), and any other --KEY VALUE is a dotted setting, if
the function takes `settings`. After -- all are words, whatever they begin with. A file may have a verb with words of
its own, which its INNER names: `evaluate suite`. What its SHELL names must be given here, though Python may leave it
out. Help shows the settings of its EXAMPLE where no word says of what.
"""

import inspect
import io
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from dinokit import __version__
from dinokit.commands.outline import commands, outline
from dinokit.core.messages import CheckFailed, RunError, UserError, is_main, line_of, unknown_name

HELP = frozenset(("-h", "--help"))
HALVES = ("experiment", "runtime")  # may be left out of a dotted key
WIDTH, COLUMN = 120, 42  # of help, and of the names in it
OVERVIEW = """dinokit {version}: self-supervised vision models of the DINO family, from a folder of images

usage: dinokit COMMAND ...

{rows}

  dinokit pretrain demo --data demo:fashion --out runs/demo   a first run, in minutes, on a laptop
  dinokit COMMAND --help                                      what a command takes"""


def main() -> None:
    """Run the command of the process and exit with its code."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed: the next file would get its number, and what libraries write there
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, closefd=False))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder's name need not be UTF-8
    sys.exit(run(sys.argv[1:]))


def run(words: list[str]) -> int:
    """Run one command line and return its exit code; a mistake becomes one line on standard error."""
    try:
        return _dispatch(words)
    except UserError as error:
        said, code = f"error: {error}", 2
    except RunError as error:
        said, code = f"stopped: {error}", 3
    except CheckFailed as error:
        said, code = f"failed: {error}", 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", str(error)):
            raise
        said, code = f"stopped: too little memory ({line_of(error)}); take smaller images, batches or models", 3
    except OSError as error:
        said, code = f"error: {error.strerror or error}: {error.filename or ''}".rstrip(": "), 2
    except KeyboardInterrupt as stop:
        said, code = str(stop) or "interrupted", 130
        if not is_main():  # one rank says it
            return code
    with suppress(OSError):  # a terminal that is gone must not change the exit code
        print(" ".join(said.splitlines()), file=sys.stderr)  # a file's name may hold several
    return code


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words or words[0] in HELP:
        rows = "\n".join(f"  {name:<10} {summary}" for name, summary in commands().items())
        print(OVERVIEW.format(version=__version__, rows=rows))
        return 0
    if words[0] in ("-V", "--version"):
        print(f"dinokit {__version__}")
        return 0
    name = words[0]
    if name not in commands():
        raise unknown_name("command", name, commands())
    module = outline(name)
    function, rest = _chosen(module, words)
    if not HELP.isdisjoint(_split(rest)[0]):
        _explain(module, function, _told_by(function, rest))
        return 0
    arguments(function, rest)  # or it is a mistake
    function, rest = _chosen(_imported(name), words)
    function(**arguments(function, rest))
    return 0


def _imported(name: str) -> ModuleType:
    return import_module(f"dinokit.commands.{name}")  # here: most import torch


def _explain(module: ModuleType, function: Callable[..., Any], told: Sequence[str]) -> None:
    """Print what a function of an outline takes, and the settings of what is told, or else of the file's EXAMPLE."""
    about, wanted = "\n".join(_help(function)), told or getattr(module, "EXAMPLE", ())
    if function.__name__ != module.__name__ or not hasattr(module, "explained") or not wanted:
        print(about)
        return
    if not told:
        print(about)  # at once; what is told may be a mistake, which is said alone
    shown = _imported(module.__name__).explained(wanted)
    if told:
        print(about)
    if shown is not None:
        print("\n".join(_settings(module, function, *shown)))


def _chosen(module: ModuleType, words: Sequence[str]) -> tuple[Callable[..., Any], list[str]]:
    """Return the function of a command's file that is meant, and what words are left for it."""
    inner = getattr(module, "INNER", {}).get(words[1] if len(words) > 1 else "")
    return (inner, list(words[2:])) if inner else (getattr(module, words[0]), list(words[1:]))


def _told_by(function: Callable[..., Any], words: Sequence[str]) -> list[str]:
    """Return what says whose settings help is to list: the first word, or the options of what takes no words."""
    words = [word for word in words if word not in HELP]
    if any(each.kind is each.POSITIONAL_OR_KEYWORD for each in _parameters(function).values()):
        return [word for word in words[:1] if not word.startswith("-")]  # a later one may be an option's
    return [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("-")]


def arguments(function: Callable[..., Any], words: Sequence[str]) -> dict[str, Any]:
    """Bind the words of a command line to a function's signature, or raise UserError."""
    parameters, kinds = _parameters(function), get_type_hints(function)
    places = [key for key, each in parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    options = {_option(key): key for key in parameters if key not in places}
    found: dict[str, Any] = {}
    settings: list[str] = []
    rest, plain = _split(words)
    while rest:
        word, equals, text = rest.pop(0).partition("=")
        option = word.replace("_", "-")
        flag = f"--{option.removeprefix('--').removeprefix('no-')}"
        if not re.match("--|-[A-Za-z]", word):
            rest = _placed(found, places, kinds, [word + equals + text, *rest], end=1 + _to_option(rest))
        elif kinds.get(options.get(flag, "")) is bool:
            if equals or rest[:1] in (["true"], ["false"]):
                raise UserError(f"{flag} takes no value; write {flag} or --no-{flag[2:]}")
            found[options[flag]] = option == flag
        elif option in options and options[option] in found and get_origin(kinds[options[option]]) is not tuple:
            raise UserError(f"{option} is given twice")
        elif option in options:
            if not equals and (not rest or rest[0].startswith("--")):
                raise UserError(f"{option} has no value; write {option} VALUE")
            text = text if equals else rest.pop(0)
            if get_origin(kinds[options[option]]) is tuple:
                more = _to_option(rest)
                found[options[option]] = (*found.get(options[option], ()), text, *rest[:more])
                rest = rest[more:]
                continue
            if not text and parameters[options[option]].default != "":
                raise UserError(f"{option} is empty; give it a value or leave it out")
            found[options[option]] = _typed(option, text, kinds[options[option]])
        else:
            settings.append(word + equals + text)
            settings += [rest.pop(0)] if not equals and rest and not rest[0].startswith("--") else []
    while plain:
        plain = _placed(found, places, kinds, plain, end=len(plain), again=True)
    required = [key for key, each in parameters.items() if _must(function, key, each)]
    missing = [key.upper() if key in places else _option(key) for key in required if key not in found]
    if settings and (missing or "settings" not in kinds):
        unknown = unknown_name("option", settings[0].partition("=")[0], options)
        dashed = places and not settings[0].startswith("--")
        raise UserError(f"{unknown}; words that begin with - come last, after --") if dashed else unknown
    if missing:
        raise UserError(f"{' and '.join(missing)} must be given: {_usage(function)}")
    if settings:
        from dinokit.config import parse_overrides

        found["settings"] = parse_overrides(settings)
    return found


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words before the first -- and those behind it, which are neither options nor settings."""
    end = words.index("--") if "--" in words else len(words)
    return list(words[:end]), list(words[end + 1 :])


def _to_option(words: Sequence[str]) -> int:
    return next((at for at, each in enumerate(words) if each.startswith("--")), len(words))


def _placed(
    found: dict[str, Any],
    places: Sequence[str],
    kinds: Mapping[str, Any],
    words: list[str],
    *,
    end: int,
    again: bool = False,
) -> list[str]:
    """Give the first word, or all up to an end, to the next of the places, and return the others.

    Args:
        again: a place that takes many, and has some, takes more.
    """
    many = [key for key in places if get_origin(kinds[key]) is tuple]
    free = [key for key in places if key not in found] or many * again
    if not free:
        raise UserError(f"one word too many: '{words[0]}'; options and settings come as --KEY VALUE")
    if free[0] in many:
        found[free[0]] = (*found.get(free[0], ()), *words[:end])
        return words[end:]
    found[free[0]] = _typed(free[0].upper(), words[0], kinds[free[0]])
    return words[1:]


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what the command line gives by name, which is all but the settings."""
    found = inspect.signature(function).parameters
    return {key: each for key, each in found.items() if key != "settings" and each.kind is not each.VAR_KEYWORD}


def _must(function: Callable[..., Any], key: str, each: inspect.Parameter) -> bool:
    """Tell what must be given: what has no default, or is of the file's SHELL, which Python may leave out."""
    return each.default is each.empty or key in function.__globals__.get("SHELL", ())


def _option(key: str) -> str:
    return f"--{key.strip('_').replace('_', '-')}"


def _typed(name: str, text: str, kind: Any) -> Any:
    """Turn a word into what a parameter takes: text, a path, a number, one of a few words."""
    kinds = [each for each in get_args(kind) if each is not type(None)] if type(None) in get_args(kind) else [kind]
    if kinds[0] is Any:
        return text
    if get_origin(kinds[0]) is Literal:
        if text not in get_args(kinds[0]):
            raise unknown_name(name, text, get_args(kinds[0]))
        return text
    try:
        value = kinds[0](text)
        if isinstance(value, int | float) and not abs(value) < 2**63:  # nor NaN
            raise ValueError
    except ValueError as error:
        wanted = {int: "a whole number", float: "a finite number"}.get(kinds[0], "a value")
        raise UserError(f"{name}: expected {wanted}, got '{text[:80]}'") from error
    return value


def _usage(function: Callable[..., Any]) -> str:
    parts = [f"dinokit {function.__name__.replace('_', ' ')}"]
    for key, each in _parameters(function).items():
        given = key.upper() if each.kind is each.POSITIONAL_OR_KEYWORD else f"{_option(key)} {key.strip('_').upper()}"
        parts += [given] if _must(function, key, each) else []
    return " ".join(parts)


def _help(function: Callable[..., Any]) -> Iterator[str]:
    """Yield what a command takes."""
    about, _, rest = inspect.cleandoc(function.__doc__ or "").partition("\n\nArgs:\n")
    described = re.findall(r"^    (\w+): ((?:.|\n(?!    \w+: ))*)", rest.partition("\n\n")[0], re.MULTILINE)
    meanings = {key: " ".join(text.split()) for key, text in described}
    yield f"usage: {_usage(function)} ...\n\n{about}\n"
    for key, each in _parameters(function).items():
        start = key.upper() if each.kind is each.POSITIONAL_OR_KEYWORD else _option(key)
        start = f"--[no-]{start[2:]}" if isinstance(each.default, bool) else start
        said = each.default not in (each.empty, None, "", ()) and not isinstance(each.default, bool)
        yield _row(start, meanings.get(key, "") + (f" (default: {each.default})" if said else ""))


def _settings(module: ModuleType, function: Callable[..., Any], name: str, config: Any) -> Iterator[str]:
    """Yield every setting with its default and its meaning."""
    from dinokit import config as configuration

    told = configuration.explained(config, hidden=HALVES)
    settings = {each.path: each for each in told if each.path not in _parameters(function)}
    first = [key for key in getattr(module, "FIRST", ()) if key in settings]
    for title, keys in (("settings that matter first", first), (f"all settings of '{name}'", settings)):
        if keys:
            yield f"\n{title}: --KEY VALUE, lists as '[0.4, 1.0]', nothing as null\n"
        for key in keys:
            found = settings[key]
            choices = f"{' | '.join(found.choices)}; " if found.choices else ""
            default = "must be given" if key in getattr(module, "REQUIRED", ()) else f"default: {found.value}"
            yield _row(f"--{key}", f"{choices}{found.meaning} ({default})")


def _row(name: str, text: str) -> str:
    return textwrap.fill(text, width=WIDTH, initial_indent=f"  {name} ".ljust(COLUMN), subsequent_indent=" " * COLUMN)
