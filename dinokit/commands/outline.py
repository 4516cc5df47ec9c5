"""What a verb takes, read off its file: its imports take seconds, most of them torch's, for which no typo should wait.

An outline is the file's constants and its functions without bodies. Of what the file imports it knows Python's own
modules and that of settings; `Any`, which takes everything, stands for every other name.
"""

import ast
import builtins
import sys
from collections.abc import Set
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

COMMANDS = Path(__file__).parent
KNOWN = ("dinokit.config", "dinokit.planning.usual")  # modules besides Python's own that are imported in a moment


def commands() -> dict[str, str]:
    """Return every command and what it is for."""
    found = {}
    for path in sorted(COMMANDS.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        name, _, summary = docstring.partition(": ")
        if name == f"`dinokit {path.stem}`":
            found[path.stem] = summary
    return found


def outline(command: str) -> ModuleType:
    """Return what there is of a command's file without what it works with."""
    path = COMMANDS / f"{command}.py"
    module = ModuleType(command)
    module.Any = Any  # type: ignore[attr-defined]
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            known = vars(module).keys() | vars(builtins).keys()
            _run(_Known(known).visit(node), path, module)
        elif isinstance(node, ast.Import | ast.ImportFrom) and _is_known(node):
            _run(node, path, module)
        elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            # without its type, which may be unknown
            targets: list[ast.expr] = node.targets if isinstance(node, ast.Assign) else [node.target]
            with suppress(NameError):  # made of what is not known
                _run(ast.copy_location(ast.Assign(targets, node.value), node), path, module)
    return module


def _run(node: ast.stmt, path: Path, module: ModuleType) -> None:
    exec(compile(ast.Module([node], []), str(path), "exec"), vars(module))


def _is_known(node: ast.Import | ast.ImportFrom) -> bool:
    names = [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return all(name in KNOWN or name.partition(".")[0] in sys.stdlib_module_names for name in names)


class _Known(ast.NodeTransformer):
    """Takes the body from a function, but for its docstring, and puts `Any` for names that are not known."""

    def __init__(self, known: Set[str]) -> None:
        self.known = known

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        node.args = self.visit(node.args)
        node.body = [ast.Expr(ast.Constant(ast.get_docstring(node, clean=False)))]
        node.returns = None
        return ast.fix_missing_locations(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        names = [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]
        return node if self.known >= set(names) else ast.Name("Any", ast.Load())

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return node if node.id in self.known else ast.Name("Any", ast.Load())
