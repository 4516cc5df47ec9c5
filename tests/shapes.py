"""Which calls are checked against their annotations: in each test the first of every function, then some.

All of them where ALL_SHAPES is set, as for the slow tests of .ci/run.

A check takes longer than work on tensors as small as those of the tests, and a run calls the same functions with the
same shapes hundreds of times: all checks were a third of its time.
"""

import os
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

import jaxtyping

FIRST = 3  # calls of a function that are all checked
THEN = 30  # of so many later ones, one is

calls = Counter[Any]()  # in this test, by function

_jaxtyped = jaxtyping.jaxtyped


def is_due(key: Any) -> bool:
    """Count one more, and say whether it is checked."""
    calls[key] += 1
    return "ALL_SHAPES" in os.environ or calls[key] <= FIRST or calls[key] % THEN == 0


def sampled(checked: Callable[..., Any], written: Callable[..., Any]) -> Callable[..., Any]:
    """Call `checked` at first and now and then, and otherwise the same function as it was written."""
    key = id(checked)

    @wraps(checked)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (checked if is_due(key) else written)(*args, **kwargs)

    return call


def jaxtyped(*, typechecker: Any) -> Callable[[Any], Any]:
    """Do what jaxtyping's decorator of this name does to functions and dataclasses, for the calls that are checked."""

    def decorate(item: Any) -> Any:
        if not isinstance(item, type):
            if "<locals>" in item.__qualname__ and not is_due(item.__code__):
                return item  # defined anew in each call of what is around it
            return sampled(_jaxtyped(item, typechecker=typechecker), item)
        written = item.__init__
        _jaxtyped(item, typechecker=typechecker)
        if item.__init__ is not written:
            item.__init__ = sampled(item.__init__, written)
        return item

    return decorate


jaxtyping.jaxtyped = jaxtyped  # what its import hook puts over each function
