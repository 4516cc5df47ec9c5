"""One pass at a time, shared by all who ask for the same; a few networks in memory."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from dinokit.checkpoints.store import header
from dinokit.core.messages import UserError
from dinokit.images.intensity import Pixels
from dinokit.models.vit import VisionTransformer
from dinokit.studio import networks
from dinokit.studio.images import Unknown
from dinokit.studio.networks import Busy, Networks, Passes
from tests.studio.conftest import saved
from tests.vits import ARCHITECTURE

CPU = torch.device("cpu")


@pytest.fixture
def passes() -> Iterator[Passes]:
    """A thread, ended behind the test."""
    found = Passes()
    yield found
    found.close()


@pytest.fixture
def blocked(passes: Passes) -> Iterator[threading.Event]:
    """The thread is at work until the event is set."""
    began, go = threading.Event(), threading.Event()
    passes.ask("first", lambda: began.set() or go.wait(20))
    assert began.wait(20)
    yield go
    go.set()


def test_what_is_asked_for_is_computed_in_its_order_and_once(passes: Passes, blocked: threading.Event) -> None:
    done: list[str] = []
    asked = [passes.ask(name, lambda name=name: done.append(name) or len(done)) for name in "abab"]
    blocked.set()
    assert [each.result(20) for each in asked] == [1, 2, 1, 2]
    assert done == ["a", "b"]
    assert passes.ask("a", lambda: "again").result(20) == "again"


def test_beyond_a_number_that_waits_asking_is_refused(
    passes: Passes, blocked: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "QUEUE", 2)
    waiting = [passes.ask(number, lambda: True) for number in range(2)]
    with pytest.raises(Busy, match="2 passes of the network wait already; ask again in a moment"):
        passes.ask(2, lambda: True)
    assert passes.ask(1, lambda: False) is waiting[1]  # it waits already
    blocked.set()
    assert waiting[1].result(20)


def test_a_failure_is_told_to_who_asked_and_the_thread_goes_on(passes: Passes) -> None:
    def fails() -> None:
        raise UserError("no")

    with pytest.raises(UserError, match="no"):
        passes.ask("x", fails).result(20)
    assert passes.ask("x", lambda: 1).result(20) == 1


def test_between_there_is_other_work_that_ends_nothing_if_it_fails(
    passes: Passes, capsys: pytest.CaptureFixture[str]
) -> None:
    left, done = [3, 2, 1], threading.Event()

    def between() -> bool:
        if not left:
            done.set()
            raise ValueError("all\nis done")
        return bool(left.pop())

    passes.meanwhile(between)
    assert done.wait(20)
    assert passes.ask("x", lambda: 1).result(20) == 1
    assert "warning: images are no longer embedded in the background: all is done" in capsys.readouterr().err


def test_who_waits_when_a_studio_ends_is_not_left_waiting() -> None:
    passes, began, go = Passes(), threading.Event(), threading.Event()
    passes.ask("first", lambda: began.set() or go.wait(20))
    assert began.wait(20)
    waiting = passes.ask("second", lambda: 1)
    ending = threading.Thread(target=passes.close)
    ending.start()
    go.set()
    ending.join()
    assert waiting.cancelled()
    with pytest.raises(Busy, match="the studio ends"):
        passes.ask("third", lambda: 1)


def test_networks_are_opened_when_asked_for_and_a_few_are_kept(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "NETWORKS", 2)
    found = Networks(list(models.items()), device=CPU)
    assert (found.at("a", None), found.at("a", 0), found.at("b", None)) == (("a", 100), ("a", 0), ("b", None))
    last = found.open("a", 100)
    assert found.open("a", 100) is last
    found.open("a", 0)
    found.open("b", None)
    again = found.open("a", 100)
    assert again is not last
    assert torch.equal(again.cls_token, last.cls_token)
    with pytest.raises(Unknown, match="expected a step of 0, 100, got 7"):
        found.at("a", 7)


def test_a_checkpoint_that_is_gone_is_said_without_its_path(tmp_path: Path) -> None:
    for step in (0, 60):
        saved(tmp_path / "run" / "checkpoints" / str(step), step)
    found = Networks([(str(tmp_path / "run"), "my run")], device=CPU)
    (tmp_path / "run" / "checkpoints" / "0" / "model.safetensors").unlink()
    with pytest.raises(Unknown, match="^step 0 of my run is gone; choose another$"):
        found.open("a", 0)
    assert found.open("a", 60) is found.open(*found.at("a", None))


def test_models_of_other_images_are_not_shown_together(tmp_path: Path) -> None:
    gray = VisionTransformer(replace(ARCHITECTURE, channels=1), seed=0)
    about = header(gray.config, Pixels((0.5,), (0.5,), 16), step=0)
    (tmp_path / "gray").mkdir()
    save_file(gray.state_dict(), tmp_path / "gray" / "model.safetensors", about)
    both = [(str(saved(tmp_path / "colour", 0)), "colour"), (str(tmp_path / "gray"), "gray")]
    line = (
        "expected models of the same images, colour takes 3 channels with white None, gray 1 with None; show them apart"
    )
    with pytest.raises(UserError, match=line):
        Networks(both, device=CPU)


def test_what_runs_outside_our_transformers_has_no_attention(tmp_path: Path) -> None:
    found = Networks([(str(saved(tmp_path, 0)), "x")], device=CPU).models["a"]
    assert (found.heads, found.blocks, found.steps, found.dim, found.token) == (2, 2, None, 16, 16)
