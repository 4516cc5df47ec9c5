"""The house stays a house: layers, sizes, names and settings, checked on the source itself."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from dinokit.features.cache import ROOMS as CODE_OF_FEATURES

ROOT = Path(__file__).parent.parent / "dinokit"
FILES = sorted(ROOT.rglob("*.py"))
BANNED = {"utils", "util", "helpers", "helper", "common", "misc"}
LAZY = {"__init__", "cli"}  # the front door imports what is asked for, when it is asked for
# imported inside functions: what need not be installed, and what is slow to import and seldom used
OPTIONAL = {
    "datasets",
    "faster_coco_eval",
    "fsspec",
    "huggingface_hub",
    "pyarrow",
    "tifffile",
    "timm",
    "torchvision",
    "transformers",
}
SLOW = (
    "torch.distributed.checkpoint.",
    "torch.distributed.device_mesh.",
    "torch.distributed.fsdp.",
    "torch.utils.tensorboard.",
)

READS = ["self", "backbone", "images"]  # what asks a network for features

# Rooms from the cellar up. A room may import itself and every room of a lower floor.
FLOORS: list[set[str]] = [
    {"core", "metrics"},
    {"config"},
    {"images"},
    {"sources", "models"},
    {"views", "annotations"},
    {"objectives", "peers"},
    {"checkpoints"},
    {"curation", "health"},
    {"features"},
    {"dense", "search"},
    {"training"},
    {"recipes", "finetuning"},
    {"run"},
    {"looks"},
    {"planning", "evaluation", "visuals"},
    {"studio", "exports", "suites"},
    {"commands"},
    {"cli"},
    {"__main__", "__init__"},
]
# What a room must not know of although it lies below.
NEVER = {
    "objectives": {"sources", "views", "annotations", "models.vit", "models.convnets"},
    "peers": {"sources", "views", "annotations"},
    "checkpoints": {"sources", "views", "annotations", "objectives"},
    "dense": {"objectives", "views.crop", "views.loader", "views.masking", "views.multicrop", "health"},
    "features": {"objectives", "views", "annotations", "health"},
    "training": {"features", "dense", "curation", "search"},
    "evaluation": {"objectives", "training", "run", "views", "health", "recipes"},
    "visuals": {"objectives", "training", "run", "views"},
}


def _name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def _nodes(path: Path) -> tuple[ast.AST, ...]:
    """Return what all tests look at and none changes."""
    return tuple(ast.walk(ast.parse(path.read_text())))


def _functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        yield from ((path, node) for node in _nodes(path) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def _imports(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


@cache
def _top(module: Path) -> set[str]:
    """Return the names that a module has."""
    names = {
        alias.asname or alias.name
        for node in _nodes(module)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    names |= {node.name for node in _nodes(module) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return names | {
        node.id for node in _nodes(module) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _ours(path: Path) -> Iterator[tuple[str, int]]:
    found = _imports(_nodes(path))
    return ((name.removeprefix("dinokit."), line) for name, line in found if name.startswith("dinokit."))


def _floor(room: str) -> int:
    found = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"{room} has no place in the house; give it a floor here and in docs/design.md"
    return found[0]


def test_a_module_imports_only_from_lower_floors() -> None:
    faults = []
    for path in FILES:
        room = _name(path).split(".")[0]
        for target, line in _ours(path):
            other = target.split(".")[0]
            if other != "__version__" and other != room and _floor(other) >= _floor(room):
                faults.append(f"{path}:{line} {room} imports dinokit.{target}, above it")
            if other != "__version__" and any(f"{target}.".startswith(f"{door}.") for door in NEVER.get(room, ())):
                faults.append(f"{path}:{line} {room} must not know of {target}")
    assert not faults, "\n".join(faults)


def test_what_benchmarks_import_of_the_package_is_there() -> None:
    missing = []
    for path in sorted((ROOT.parent / "benchmarks").rglob("*.py")):
        for name, line in _ours(path):
            whole = ROOT.joinpath(*name.split("."))
            if not whole.is_dir() and not whole.with_suffix(".py").exists():
                module = whole.parent / "__init__.py" if whole.parent.is_dir() else whole.parent.with_suffix(".py")
                if not module.exists() or whole.name not in _top(module):
                    missing.append(f"{path.name}:{line} {name}")
    assert not missing


def test_no_module_imports_itself_in_a_circle() -> None:
    known = {_name(path).removesuffix(".__init__") for path in FILES}
    edges: dict[str, set[str]] = {}
    for path in FILES:
        if path.stem == "__init__" and path.parent == ROOT:
            continue
        targets = {name for name, _ in _ours(path)}
        resolved = {t if t in known else t.rsplit(".", 1)[0] for t in targets}
        edges[_name(path).removesuffix(".__init__")] = {t for t in resolved if t in known}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import cycle: {' -> '.join((*trail, name))}"
        if name not in done:
            for target in edges.get(name, ()):
                visit(target, (*trail, name))
            done.add(name)

    for name in edges:
        visit(name, ())


def test_files_and_functions_stay_small() -> None:
    banned = [str(path) for path in FILES if path.stem in BANNED]
    assert not banned, f"{banned}: name a module after what is in it"
    long = [str(path) for path in FILES if len(path.read_text().splitlines()) > 500]
    for path, node in _functions():
        assert node.end_lineno is not None
        if node.end_lineno - node.lineno + 1 > 80:
            long.append(f"{path}:{node.lineno} {node.name}")
    assert not long, "\n".join(long)


def test_what_is_read_of_networks_is_part_of_where_features_are_kept() -> None:
    """A change of such code must find no features of before."""
    calls = [(path, node) for path, node in _functions() if node.name == "__call__"]
    reads = [(path, node) for path, node in calls if [each.arg for each in node.args.args] == READS]
    assert reads
    faults = [f"{path}:{node.lineno}" for path, node in reads if _name(path).split(".")[0] not in CODE_OF_FEATURES]
    assert not faults, f"{faults} read a network: to models/"


def test_imports_stand_at_the_top() -> None:
    faults = []
    for path, function in _functions():
        inside = {name.split(".")[0] for name, _ in _imports(ast.walk(function)) if not name.startswith(SLOW)}
        if path.stem not in LAZY and not inside <= OPTIONAL:
            faults.append(f"{path}:{function.lineno} {function.name} imports {inside - OPTIONAL}")
    assert not faults, "\n".join(faults)


def test_only_the_device_module_names_a_device() -> None:
    others = [path for path in FILES if _name(path).split(".")[0] not in ("run", "training", "cli", "commands")]
    strings = {path: {node.value for node in _nodes(path) if isinstance(node, ast.Constant)} for path in others}
    assert [_name(path) for path in others if "cuda" in strings[path]] == ["core.device"]


def _config_fields() -> Iterator[tuple[str, str]]:
    """Every field of every frozen dataclass that is part of a configuration."""
    for path in FILES:
        for node in _nodes(path):
            if not isinstance(node, ast.ClassDef):
                continue
            keyword_only = any("kw_only=True" in ast.unparse(decorator) for decorator in node.decorator_list)
            if keyword_only:
                for item in node.body:
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                        yield f"{_name(path)}.{node.name}", item.target.id


def test_every_config_field_is_read() -> None:
    """An option that nobody reads is a bug; `__post_init__` checking it does not count as reading."""
    read: set[str] = set()
    for path in FILES:
        bodies = (item for node in _nodes(path) if isinstance(node, ast.ClassDef) for item in node.body)
        checks = [item for item in bodies if getattr(item, "name", "") == "__post_init__"]
        left_out = {id(node) for check in checks for node in ast.walk(check)}
        loads = (n for n in _nodes(path) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load))
        read |= {node.attr for node in loads if id(node) not in left_out}
    fields = list(_config_fields())
    assert len(fields) > 50
    unread = [f"{owner}.{name}" for owner, name in fields if name not in read]
    assert not unread, unread
