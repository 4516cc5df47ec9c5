"""The JSON files beside a weights file: read, and held against the weights."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinokit.core.errors import UserError, reason
from dinokit.peers import huggingface

CONFIG, PREPROCESSOR = huggingface.CONFIG, huggingface.PREPROCESSOR
LICENCE = "license"  # as timm spells it
Files = Mapping[str, Mapping[str, Any]]  # content by file name


def beside(file: Path) -> Files:
    """Read the JSON files that describe a weights file and stand beside it.

    Raises:
        UserError: if one is damaged.
    """
    found = {}
    for name in (CONFIG, PREPROCESSOR):
        path = file.parent / name
        if not path.is_file():
            continue
        try:
            found[name] = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"cannot read {path}: {reason(error)}") from error
        except ValueError as error:
            raise UserError(f"{path} is no JSON: {error}") from error
        if not isinstance(found[name], Mapping):
            raise UserError(f"{path} holds a {type(found[name]).__name__}; expected a table of settings")
    return found


def licence(about: Mapping[str, Any]) -> str | None:
    """Return what config.json says of the licence of the weights: where timm says it, or at the top."""
    places = (about, about.get("pretrained_cfg"))
    found = (place.get(LICENCE) for place in places if isinstance(place, Mapping))
    return next((name for name in found if isinstance(name, str)), None)


def agree(about: Mapping[str, Any], expected: Mapping[str, object]) -> None:
    """Compare what config.json says with what the weights and their architecture say; it may be silent.

    Raises:
        UserError: naming the first setting that differs.
    """
    for name, wanted in expected.items():
        if about.get(name, wanted) != wanted:
            raise UserError(
                f"{CONFIG}: {name} {about[name]!r} is not supported with these weights; they and their architecture "
                f"have {wanted!r}"
            )


def positive(about: Mapping[str, Any], name: str) -> float | None:
    """Return a setting of config.json that must be a positive number, None if it is not there.

    Raises:
        UserError: if it is something else.
    """
    value = about.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise UserError(f"{CONFIG}: {name} must be a positive number, got {value!r}")
    return float(value)
