"""Configuration is strict: what is not meant exactly is an error that says where and what to do."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from dinokit import recipes
from dinokit.config import (
    Setting,
    differences,
    explained,
    from_plain,
    override,
    parse_overrides,
    read_yaml,
    to_plain,
    to_yaml,
)
from dinokit.core.files import write_text
from dinokit.core.messages import UserError
from dinokit.training.config import HALVES, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.1  # per step
    scale: tuple[float, float] = (0.4, 1.0)


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int = 10
    name: str = "a"
    fast: bool = False
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    kind: Literal["plain", "fancy"] = "plain"  # of cake
    level: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise UserError(f"steps must be >= 0, got {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Root:
    half: Outer = field(default_factory=Outer)


def test_yaml_round_trip_gives_the_same_config(tmp_path: Path) -> None:
    config = Outer(steps=3, inner=Inner(rate=1e-7, scale=(0.1, 0.2)), maybe=Inner())
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    assert from_plain(Outer, read_yaml(tmp_path / "c.yaml")) == config


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("stepz", 3, "unknown setting 'stepz'; did you mean 'steps'"),
        ("inner.rat", 3, "unknown setting 'inner.rat'; did you mean 'inner.rate'"),
        ("steps", "3", "'steps': expected a whole number, got '3'"),
        ("steps", 2.7, "'steps': expected a whole number, got 2.7"),
        ("steps", True, "'steps': expected a whole number"),
        ("fast", "no", "'fast': expected true or false"),
        ("inner.rate", "fast", "'inner.rate': expected a finite number, got 'fast'"),
        ("inner.rate", float("nan"), "'inner.rate': expected a finite number, got nan"),
        ("inner.scale", [0.1, float("-inf")], "expected a finite number, got -inf"),
        ("inner.rate", 10**400, "expected a finite number"),
        ("kind", "b", "'kind': expected one of plain, fancy, got 'b'"),
        ("kind", [], "'kind': expected one of plain, fancy, got []"),
        ("level", "high", "'level': expected auto, or a number, got 'high'"),
        ("level", float("nan"), "'level': expected a finite number, got nan"),
        ("inner", {1: 2, "rate": 1.0}, "unknown setting 'inner.1'"),
        ("inner.scale", [0.4], "'inner.scale': expected two numbers such as [1, 2], got [0.4]"),
        ("inner.scale", 0.3, "'inner.scale': expected two numbers such as [1, 2], got 0.3"),
        ("inner.scale", None, "'inner.scale': expected two numbers such as [1, 2], got None"),
        ("inner.scale", {0.4: 1, 0.5: 2}, "'inner.scale': expected two numbers"),
        ("inner.scale", ["a", 1], "'inner.scale': expected a finite number, got 'a'"),
        ("steps", -1, "steps must be >= 0, got -1"),
    ],
)
def test_a_wrong_setting_names_its_path(path: str, value: object, message: str) -> None:
    with pytest.raises(UserError) as caught:
        override(Outer(), {path: value})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_in_a_file_names_its_path_and_the_nearest() -> None:
    plain = to_plain(Outer())
    plain["inner"]["rats"] = 1
    with pytest.raises(UserError, match="unknown setting 'inner.rats'; did you mean 'inner.rate'"):
        from_plain(Outer, plain)


def test_a_misspelt_key_is_named_before_the_one_that_is_then_missing() -> None:
    plain = {"experimnt": {}}
    with pytest.raises(UserError, match="unknown setting 'experimnt'; did you mean 'experiment'"):
        from_plain(TrainConfig, plain)


def test_an_unknown_key_lists_the_nearest_few() -> None:
    with pytest.raises(UserError, match="of the .* known the nearest are") as caught:
        override(recipes.find("demo"), {"zzz": 1}, hidden=HALVES)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["0x_", "!!int x", "2024-99-99", "2024-01-01"])
def test_no_word_breaks_the_reader_and_dates_are_text(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"name: {text}")
    if text.startswith("20"):
        assert parse_overrides(["--name", text]) == read_yaml(tmp_path / "c.yaml") == {"name": text}
        return
    with pytest.raises(UserError, match="--name"):
        parse_overrides(["--name", text])
    with pytest.raises(UserError, match=r"c\.yaml is not valid YAML"):
        read_yaml(tmp_path / "c.yaml")


MOST = ("demo", "dinov3_vitl16")  # between them every setting, and with stages


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=[] if each in MOST else pytest.mark.slow) for each in recipes.names()]
)
def test_every_explained_setting_can_be_given_as_explained(name: str) -> None:
    config = recipes.find(name)
    settings = list(explained(config, hidden=HALVES))
    assert all(setting.meaning for setting in settings), [s.path for s in settings if not s.meaning]
    words = [word for setting in settings for word in (f"--{setting.path}", setting.value)]
    assert override(config, parse_overrides(words), hidden=HALVES) == config
    leaves = {leaf.partition(".")[2] for leaf in differences({}, config)}  # without experiment. and runtime.
    for setting in settings:  # a tree of settings, as of a stage, is given whole
        assert any(f"{leaf}.".startswith(f"{setting.path}.") for leaf in leaves), setting.path


def test_a_setting_is_explained_by_its_comment_and_its_choices() -> None:
    found = {setting.path: setting for setting in explained(Root(), hidden=("half",))}
    assert found["inner.rate"] == Setting("inner.rate", "0.1", "per step", ())
    assert found["kind"] == Setting("kind", "plain", "of cake", ("plain", "fancy"))
    assert (found["maybe"].value, found["inner.scale"].value) == ("null", "[0.4, 1.0]")


def test_a_path_may_leave_out_the_half_it_is_in() -> None:
    changed = override(Root(), {"inner.rate": 3.0, "half.steps": 4}, hidden=("half",))
    assert (changed.half.inner.rate, changed.half.steps) == (3.0, 4)


def test_a_part_that_is_off_can_be_given_whole_and_switched_off_again() -> None:
    on = override(Outer(), {"maybe.rate": 0.5})
    assert on.maybe == Inner(rate=0.5)
    assert override(on, {"maybe": None}).maybe is None


def test_words_become_values_as_in_yaml() -> None:
    words = ["--a.b", "1e-3", "--c=[0.4, 1.0]", "--d-e", "null", "--f", "text", "--g", "5", "--h", "-1e5"]
    assert parse_overrides(words) == {"a.b": 1e-3, "c": [0.4, 1.0], "d_e": None, "f": "text", "g": 5, "h": -1e5}


@pytest.mark.parametrize("words", [["--a"], ["a", "3"]])
def test_words_that_are_no_pairs_are_refused(words: list[str]) -> None:
    with pytest.raises(UserError):
        parse_overrides(words)


def test_a_setting_may_be_a_number_or_a_word() -> None:
    assert override(Outer(), {"level": 0.5}).level == 0.5
    assert override(Outer(level=0.5), {"level": "auto"}).level == "auto"


def test_differences_name_paths_and_both_values() -> None:
    assert differences(Outer(), Outer(steps=11, maybe=Inner())) == {
        "steps": (10, 11),
        "maybe": (None, None),
        "maybe.rate": (None, 0.1),
        "maybe.scale": (None, [0.4, 1.0]),
    }
    assert differences(Outer(), Outer()) == {}


@pytest.mark.parametrize("text", ["1e3", "null", "yes", "3", "2024-01-01", "a: b", "\udcff.png", "# x"])
def test_any_text_survives_yaml(text: str, tmp_path: Path) -> None:
    write_text(tmp_path / "c.yaml", to_yaml({"source": text}))
    assert read_yaml(tmp_path / "c.yaml") == {"source": text}


def test_a_path_finds_the_half_that_knows_it() -> None:
    """`data` is in both halves: what is seen, and how much of it may be bad."""
    config = recipes.find("demo")
    changed = override(
        config, {"data.max_bad_ratio": 0.2, "data.min_side": 4, "data.masks.probability": 0.3}, hidden=HALVES
    )
    assert set(differences(config, changed)) == {
        "runtime.data.max_bad_ratio",
        "experiment.data.min_side",
        "experiment.data.masks.probability",
    }
    with pytest.raises(UserError, match=r"unknown setting 'data.max_bad_rato'; did you mean 'data.max_bad_ratio'"):
        override(config, {"data.max_bad_rato": 0.2}, hidden=HALVES)
    settings = {setting.path: setting for setting in explained(config, hidden=HALVES)}
    assert settings["data.max_bad_ratio"].value == "0.05"
