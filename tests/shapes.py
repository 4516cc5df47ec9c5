"""Which calls are checked against their annotations: in each test the first of every function of shapes, then some.

All of them where ALL_SHAPES is set, as for the slow tests of .ci/run. A function without a shape in its signature is
left to mypy, which is strict: of those in the rooms with tensors they are 63 in 100.

A check takes longer than work on tensors as small as those of the tests, and a run calls the same functions with the
same shapes hundreds of times: all checks were a third of its time. It is written when a function is first called: those
of all 4,000 would be a fifth of what a worker imports, and most workers call a part of them.
"""

import os
from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, wraps
from typing import Any

import jaxtyping

ALL = "ALL_SHAPES" in os.environ
FIRST = 3  # calls of a function that are all checked
THEN = 30  # of so many later ones, one is

calls: dict[Any, int] = {}  # in this test, by function

_jaxtyped = jaxtyping.jaxtyped


def has_shapes(written: Callable[..., Any]) -> bool:
    """Say whether an annotation speaks of the shape of an array."""
    return "jaxtyping." in repr(written.__annotations__)


def is_due(key: Any) -> bool:
    """Count one more, and say whether it is checked."""
    calls[key] = count = calls.get(key, 0) + 1
    return ALL or count <= FIRST or count % THEN == 0


def sampled(written: Callable[..., Any], *, typechecker: Any) -> Callable[..., Any]:
    """Call `written` with its checks at first and now and then, and otherwise as it is."""
    checked = cache(lambda: _jaxtyped(written, typechecker=typechecker))
    key = id(written)
    from torch.compiler import is_compiling

    @wraps(written)
    def call(*args: Any, **kwargs: Any) -> Any:
        if is_compiling():  # what is traced is not run, and a cache is no part of a program
            return written(*args, **kwargs)
        return (checked() if is_due(key) else written)(*args, **kwargs)

    return call


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """Do what jaxtyping's decorator of this name does to functions and dataclasses, for the calls that are checked."""

    def decorate(item: Any) -> Any:
        if not isinstance(item, type):
            passed = "<locals>" in item.__qualname__ and not is_due(item.__code__)  # defined anew in each call
            return item if passed or not has_shapes(item) else sampled(item, typechecker=typechecker)
        done = getattr(item.__init__, "__globals__", None) is globals()  # inherited
        if is_dataclass(item) and not done and has_shapes(item.__init__):
            item.__init__ = sampled(item.__init__, typechecker=typechecker)
        return item

    return decorate


jaxtyping.jaxtyped = jaxtyped  # what its import hook puts over each function
