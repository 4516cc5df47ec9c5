"""Typed configuration: frozen dataclasses <-> plain values <-> YAML, strictly, with dotted overrides and differences.

cattrs does the conversion; scalars are taken as they are (no "3" -> 3, no 2.7 -> 2, no "no" -> True, no infinity),
unknown keys fail with the nearest valid one, and every error names the dotted path of the value.
"""

import ast
import copy
import inspect
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import cattrs
import yaml
from cattrs.gen import make_dict_structure_fn

from dinokit.core.messages import UserError, reason, unknown_name
from dinokit.core.numbers import Bound, OutOfBounds

T = TypeVar("T")
Settings = Mapping[str, Any]  # of a command: what the user wrote behind its own options, by dotted key
NO_GROUP = "expected a group of settings, got {}; give its parts by dotted keys"
NO_SETTINGS: Mapping[str, Any] = {}

converter = cattrs.Converter(forbid_extra_keys=True)


def to_plain(config: Any) -> Any:
    """Turn a config into dicts, lists and scalars that YAML and JSON can hold."""
    if is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in fields(config)}
    if isinstance(config, Mapping):
        return {key: to_plain(value) for key, value in config.items()}
    return [to_plain(value) for value in config] if isinstance(config, tuple | list) else config


def from_plain(kind: type[T], value: Any) -> T:
    """Build a config from plain values, or raise a UserError that names the dotted path of what does not fit."""
    if not isinstance(value, Mapping):
        raise UserError(NO_GROUP.format(shortened(value)))
    try:
        return converter.structure(value, kind)
    except (cattrs.BaseValidationError, TypeError, ValueError) as error:
        raise UserError(_explanation(error, path="")) from error
    except RecursionError as error:
        raise UserError("the settings are nested too deeply") from error


def current(plain: Mapping[str, Any], retired: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as an earlier version wrote them, or some of them, without those that are retired.

    Args:
        retired: by dotted key, the value that all had; a UserError says that one had another.
    """
    result = copy.deepcopy(dict(plain))
    for path, value in retired.items():
        *groups, name = path.split(".")
        node: Any = result
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict) and node.pop(name, value) != value:
            raise UserError(f"setting {path} is retired and was always {value}; leave it out")
    return result


def to_yaml(config: Any) -> str:
    """Write a config as YAML, in the order of its fields."""
    return yaml.dump(to_plain(config), Dumper=_Dumper, sort_keys=False, width=120)


def read_yaml(path: Path) -> Any:
    """Read plain values from a YAML file, or raise UserError."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # no text, numbers such as 0x_, deep brackets
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """Read `--dotted.key VALUE` or `--dotted.key=VALUE`; values are YAML, e.g. 3, 1e-3, [0.4, 1.0], null."""
    result: dict[str, Any] = {}
    rest = list(words)
    while rest:
        key, equals, text = rest.pop(0).partition("=")
        if not key.startswith("--"):
            raise UserError(f"expected --dotted.key VALUE, got '{key}'; settings come in pairs, lists as [0.4, 1.0]")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{key} has no value; write {key} VALUE")
            text = rest.pop(0)
        path = key.removeprefix("--").replace("-", "_")
        if path in result:
            raise UserError(f"{key} is given twice")
        try:
            result[path] = yaml.load(text, Loader=_Loader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(
                f"{key}: '{text[:80]}' is no value; quote lists for the shell: {key} '[0.4, 1.0]'"
            ) from error
    return result


def override(config: T, values: Mapping[str, Any], *, hidden: Sequence[str] = ()) -> T:
    """Return the config with the values at these dotted paths replaced; UserError if a path or value does not fit.

    Args:
        hidden: fields of the root whose name may be left out of a path: with "experiment", `seed` is `experiment.seed`.
    """
    return from_plain(type(config), assigned(to_plain(config), values, hidden=hidden))


def assigned(plain: dict[str, Any], values: Mapping[str, Any], *, hidden: Sequence[str] = ()) -> dict[str, Any]:
    """Put values into plain settings at their dotted paths, in place, as `override` does, and return them unchecked."""
    # what a group is comes before what is in it
    for path, value in sorted(values.items(), key=lambda each: (not each[0].endswith(".kind"), each[0].count("."))):
        keys = path.split(".")
        # a hidden half that knows all of the path, or else the first that knows its start
        homes = [half for half in hidden if keys[0] not in hidden and keys[0] in plain[half]]
        homes.sort(key=lambda half: path not in _nodes(plain[half]))
        known = {re.sub(f"^({'|'.join(hidden)})[.]", "", name) if hidden else name for name in _nodes(plain)} - set(
            hidden
        )
        _assign(plain, homes[:1] + keys, value, known=filter(None, known), path=path)
    return plain


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """Return dotted path -> (old value, new value) wherever two configs or plain values differ."""
    before, after = flat(to_plain(old)), flat(to_plain(new))
    paths = list(before) + [path for path in after if path not in before]
    absent = object()
    changed = [path for path in paths if before.get(path, absent) != after.get(path, absent)]
    return {path: (before.get(path), after.get(path)) for path in changed}


@dataclass(frozen=True)
class Setting:
    """One setting as a person sees it."""

    path: str  # dotted
    value: str  # as it would be written on the command line
    meaning: str  # the comment behind the field
    choices: tuple[str, ...]  # all there are, if they are few words


def explained(config: Any, *, hidden: Sequence[str] = (), prefix: str = "") -> Iterator[Setting]:
    """Explain every setting of a config, with paths that `override` takes; what is switched off is one setting, null.

    Args:
        hidden: fields of the root that are left out of the paths.
    """
    comments, types = _comments(type(config)), get_type_hints(type(config))
    for field in fields(config):
        value = getattr(config, field.name)
        inner = prefix if field.name in hidden else f"{prefix}{field.name}."
        parts = value if isinstance(value, Mapping) and all(map(is_dataclass, value.values())) else {}
        if is_dataclass(value):
            yield from explained(value, prefix=inner)
        for name, part in parts.items():
            yield from explained(part, prefix=f"{inner}{name}.")
        if parts or is_dataclass(value):
            continue
        text = (
            yaml.dump(to_plain(value), Dumper=_Dumper, default_flow_style=True, width=1000)
            .removesuffix("...\n")
            .strip()
        )
        bound = inspect.getattr_static(type(config), field.name, None)
        meaning = "; ".join(filter(None, [comments.get(field.name), bound.text if isinstance(bound, Bound) else ""]))
        kinds = [each for each in (types[field.name], *get_args(types[field.name])) if _is_literal(each)]
        yield Setting(
            inner.removesuffix("."), text, meaning, tuple(str(word) for each in kinds for word in get_args(each))
        )


def _comments(kind: type) -> dict[str, str]:
    """Map the fields of a dataclass, and of those it extends, to the comment behind each in the source."""
    found: dict[str, str] = {}
    for part in reversed(kind.__mro__):
        if not is_dataclass(part):
            continue
        source = textwrap.dedent(inspect.getsource(part))
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        behind = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
        (tree,) = ast.parse(source).body
        for node in ast.walk(tree):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
                found[node.target.id] = " ".join(behind[line] for line in lines if line in behind)
    return found


class _Open(dict[str, Any]):
    """A group of settings that takes any name, since its defaults are not known here; building it knows them."""


def _assign(plain: dict[str, Any], keys: list[str], value: Any, *, known: Iterable[str], path: str) -> None:
    node: Any = plain
    for key, following in pairwise(keys):
        if not isinstance(node, dict) or key not in node:
            raise unknown_name("setting", path, known)
        if node[key] is None:
            node[key] = _Open()  # a part that was switched off: the given values must then be complete
        elif following == "kind" and isinstance(node[key], dict) and node[key].get("kind", value) != value:
            node[key] = _Open(kind=value)  # what it was says nothing of what it is now
        node = node[key]
    if not isinstance(node, dict) or (node and keys[-1] not in node and not isinstance(node, _Open)):
        raise unknown_name("setting", path, known)
    group = node.get(keys[-1])
    if isinstance(group, dict) and "kind" not in group and not isinstance(value, Mapping | None):
        raise UserError(f"setting '{path}': {NO_GROUP.format(shortened(value))}")
    node[keys[-1]] = value


def _nodes(plain: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """List the dotted paths of all groups and settings."""
    for key, value in plain.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _nodes(value, f"{prefix}{key}.")


def flat(plain: Any, prefix: str = "") -> dict[str, Any]:
    """Return a plain configuration by dotted keys."""
    if not isinstance(plain, dict) or not plain:
        return {prefix: plain}
    leaves: dict[str, Any] = {}
    for key, value in plain.items():
        leaves |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return leaves


def _explanation(error: BaseException, *, path: str) -> str:
    """Describe the first leaf of cattrs' tree of errors by its dotted path."""
    if isinstance(error, cattrs.BaseValidationError):
        unknown = [each for each in error.exceptions if isinstance(each, cattrs.ForbiddenExtraKeysError)]
        first = (unknown or error.exceptions)[0]  # a key that is misspelt is also one that is missing
        notes = getattr(first, "__notes__", [])
        steps = [n.name for n in notes if isinstance(n, cattrs.AttributeValidationNote)]
        steps += [str(n.index) for n in notes if isinstance(n, cattrs.IterableValidationNote)]
        step = steps[0] if steps else ""
        return _explanation(first, path=f"{path}.{step}".strip("."))
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        prefix = f"{path}." if path else ""
        known = [prefix + field.name for field in fields(error.cl)]
        return str(unknown_name("setting", prefix + min(map(str, error.extra_fields)), known))
    if isinstance(error, KeyError):
        return f"setting '{path}' is missing; give it a value"
    if isinstance(error, OutOfBounds):
        return f"{'.'.join(filter(None, (path, error.name)))} {error.wrong}"
    if isinstance(error, UserError):
        return f"{path}: {error}" if path and path not in str(error) else str(error)
    return f"setting '{path}': {error}"


def _group(kind: Any) -> Callable[[Any, Any], Any]:
    structure = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True)

    def checked(value: Any, _: Any) -> Any:
        if not isinstance(value, Mapping):
            raise TypeError(NO_GROUP.format(shortened(value)))
        return structure(value, kind)

    return checked


def shortened(value: Any) -> str:
    """Show a value in an error, however long it is."""
    try:
        text = repr(value)
    except ValueError:  # a number of more than 4,300 digits
        text = "a huge number"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _strict(kind: type, accepts: Callable[[Any], bool], name: str) -> None:
    def structure(value: Any, _: Any) -> Any:
        if not accepts(value):
            raise TypeError(f"expected {name}, got {shortened(value)}")
        return kind(value)

    converter.register_structure_hook(kind, structure)


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _is_list(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[-1] is ...


def _is_pair(kind: Any) -> bool:
    return get_origin(kind) is tuple and get_args(kind)[-1] is not ... and len(get_args(kind)) == 2


def _one_of(value: Any, kind: Any) -> Any:
    if value not in get_args(kind):
        raise TypeError(f"expected one of {', '.join(map(str, get_args(kind)))}, got {shortened(value)}")
    return value


def _has_words(kind: Any) -> bool:
    """Tell what takes words or else a number; cattrs itself knows words or null."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return any(map(_is_literal, kinds)) and type(None) not in kinds


def _word_or(value: Any, kind: Any) -> Any:
    words = [word for each in get_args(kind) if _is_literal(each) for word in get_args(each)]
    if isinstance(value, str):
        if value not in words:
            raise TypeError(f"expected {' or '.join(words)}, or a number, got {shortened(value)}")
        return value
    return converter.structure(value, next(each for each in get_args(kind) if not _is_literal(each)))


def _each(value: Any, kind: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise TypeError(f"expected a list such as [{shortened(value)}], got {shortened(value)}")
    return tuple(converter.structure(each, get_args(kind)[0]) for each in value)


def _both(value: Any, kind: Any) -> Any:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise TypeError(f"expected two numbers such as [1, 2], got {shortened(value)}")
    return tuple(converter.structure(each, of) for each, of in zip(value, get_args(kind), strict=True))


converter.register_structure_hook_factory(is_dataclass, _group)
converter.register_structure_hook_func(_is_literal, _one_of)
converter.register_structure_hook_func(_is_list, _each)
converter.register_structure_hook_func(_is_pair, _both)
converter.register_structure_hook_func(_has_words, _word_or)
_strict(int, lambda value: type(value) is int and abs(value) < 2**63, "a whole number")
_strict(
    float,
    lambda value: (
        isinstance(value, int | float) and value is not True and value is not False and abs(value) <= sys.float_info.max
    ),
    "a finite number",
)
_strict(bool, lambda value: isinstance(value, bool), "true or false")
_strict(str, lambda value: isinstance(value, str), "text")


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 1e-3 as text and 2026-11-22 as a date; here they are the number and the text everyone means."""


_EXPONENT = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


class _Dumper(yaml.SafeDumper):
    """Writes in quotes what the loader would take for something else than text."""


_Dumper.yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
