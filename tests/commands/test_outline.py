"""What is read off a verb's file is what the verb takes, and wrong words wait for nothing that a verb works with."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, get_origin, get_type_hints

import pytest

from dinokit.commands.outline import commands, outline

WRONG = """
import sys
import dinokit
from dinokit import cli
from dinokit.commands.outline import commands
for name in commands():
    assert cli.run([name, "--nonsense", "1"]) == 2, name
    assert cli.run([name, "-h"] if name not in ("adapt", "finetune", "plan", "pretrain") else [name]) in (0, 2), name
assert cli.run(["--help"]) == 0
assert cli.run(["data", "look", "photos"]) == cli.run(["replay", "run", "first"]) == 2
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("name", commands())
def test_an_outline_takes_what_the_verb_takes(name: str) -> None:
    outlined, whole = outline(name), import_module(f"dinokit.commands.{name}")
    for own, real in zip(_functions(outlined, name), _functions(whole, name), strict=True):
        assert own.__doc__ == real.__doc__
        assert _words(own) == _words(real)
        kinds, real_kinds = get_type_hints(own), get_type_hints(real)
        for key, kind in real_kinds.items():
            assert key == "return" or (kinds[key] is bool) == (kind is bool)
            assert key == "return" or (get_origin(kinds[key]) is tuple) == (get_origin(kind) is tuple)
    for constant in ("SHELL", "FIRST", "REQUIRED", "EXAMPLE"):
        assert getattr(outlined, constant, ()) == getattr(whole, constant, ())


def test_an_outline_has_constants_with_a_type_and_hides_no_function_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dinokit.commands.outline.COMMANDS", tmp_path)
    (tmp_path / "verb.py").write_text(
        "from torch import Tensor\nSHELL: tuple[str, ...] = ('out',)\nWORDS: Tensor = 3\nOTHERS = Tensor()\nopen: int\n"
    )
    made = vars(outline("verb"))
    assert (made["SHELL"], made["WORDS"]) == (("out",), 3)
    assert "OTHERS" not in made
    (tmp_path / "verb.py").write_text("from torch import compile as wrapped\n@wrapped\ndef verb(): ...\n")
    with pytest.raises(NameError, match="wrapped"):
        outline("verb")


def test_wrong_words_and_help_without_settings_load_no_torch() -> None:
    subprocess.run([sys.executable, "-c", WRONG], check=True, capture_output=True)


def _functions(module: ModuleType, name: str) -> list[Callable[..., Any]]:
    inner = getattr(module, "INNER", {})
    return [getattr(module, name), *(inner[word] for word in sorted(inner))]


def _words(function: Callable[..., Any]) -> list[tuple[str, Any, Any]]:
    return [(each.name, each.kind, each.default) for each in inspect.signature(function).parameters.values()]
