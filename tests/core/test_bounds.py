"""A bounded field is checked whenever an instance is made, and stays an ordinary field of a dataclass."""

import pickle
from dataclasses import dataclass, replace

import pytest

from dinokit.config import from_plain, to_plain
from dinokit.core.bounds import above, at_least, between
from dinokit.core.messages import UserError
from dinokit.core.schedule import Schedule, constant, cosine, ramp
from dinokit.recipes import find
from dinokit.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int = at_least(1)
    flip: float | None = between(0, 1, 0.5)
    scale: tuple[float, float] = between(0, 1, (0.4, 1.0), without=0, rising=True)
    k: tuple[int, ...] = at_least(1, (10, 20))
    heat: Schedule = above(0, constant(0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"flip": 1.5}, "flip must be between 0 and 1, or null, got 1.5"),
        ({"flip": float("nan")}, "flip must be between 0 and 1, or null, got nan"),
        ({"flip": True}, "got True"),
        ({"scale": (0.0, 1.0)}, "scale must be between 0 and 1 without 0, rising"),
        ({"scale": (0.5, 0.4)}, "rising"),
        ({"k": ()}, r"k must be at least 1, got \(\)"),
        ({"k": (3, 0)}, r"k must be at least 1, got \(3, 0\)"),
        ({"heat": ramp(0.0, 0.1, steps=5)}, r"heat must be above 0, got 0.0 to 0.1"),
        ({"heat": cosine(0.1, 0.0, steps=5)}, "heat must be above 0"),
        ({"heat": Schedule(peak=0.1, end=0.1, freeze=2)}, "heat must be above 0"),
    ],
)
def test_a_value_outside_is_refused_with_its_bound(change: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Settings(**({"steps": 1} | change))  # type: ignore[arg-type]


def test_a_bounded_field_is_a_field_like_any_other() -> None:
    made = Settings(steps=2, flip=None, k=[3, 4])  # type: ignore[arg-type]
    assert made == Settings(steps=2, flip=None, k=(3, 4)) == pickle.loads(pickle.dumps(made))
    assert (Settings(steps=2).k, made.k) == ((10, 20), (3, 4))
    with pytest.raises(UserError, match="^steps is missing; give it a value$"):
        Settings()
    with pytest.raises(UserError, match="steps must be at least 1"):
        replace(made, steps=-3)


def test_the_dotted_path_is_named_where_it_is_known() -> None:
    plain = to_plain(find("demo"))
    plain["experiment"]["data"]["views"]["flip"] = 2.0
    with pytest.raises(UserError, match=r"^experiment\.data\.views\.flip must be between 0 and 1, got 2\.0$"):
        from_plain(TrainConfig, plain)
