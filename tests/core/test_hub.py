"""Whatever is fetched from the hub: a closed network is one line at once, and what a library says is one line."""

import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import OfflineModeIsEnabled

from dinokit.checkpoints.load import load
from dinokit.core.hub import fetching
from dinokit.core.messages import LONGEST, UserError
from dinokit.sources.source import open_source

NOWHERE = "http://127.0.0.1:9"  # closed on this machine: no name is looked up, no packet leaves it
WHO: dict[str, tuple[str, Callable[[str], object]]] = {
    "timm/resnet18": ("timm", load),
    "hf/facebook/dinov2-base": ("transformers", load),
    "open_clip/ViT-B-32/laion2b_s34b_b79k": ("open_clip", load),
    "vitb14.dinov2": ("huggingface_hub", load),
    "hf:owner/name": ("datasets", open_source),
}


@pytest.mark.parametrize("name", WHO)
def test_a_closed_network_is_one_line_without_retries(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    package, fetch = WHO[name]
    pytest.importorskip(package)
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "DINOKIT_WEIGHTS"):
        monkeypatch.delenv(variable, raising=False)
    asked, original = [], urllib.request.urlopen

    def ask(request: Any, **options: Any) -> Any:
        asked.append(request)
        return original(request, **options)

    monkeypatch.setattr("urllib.request.urlopen", ask)
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(UserError) as caught:
        fetch(name)
    message = str(caught.value)
    assert message.startswith(name)
    assert f" is not in {constants.HF_HUB_CACHE} and {NOWHERE} is out of reach; put " in message
    assert "\n" not in message
    assert len(asked) == 1
    assert before == constants.HF_HUB_OFFLINE
    assert "Retry" not in capfd.readouterr().err


def test_what_a_library_says_is_one_line_of_bounded_length() -> None:
    with pytest.raises(UserError) as caught, fetching("x", local=True, instead="go"):
        raise ValueError("Validation error for field:\n    'a' must be positive\n")
    assert str(caught.value) == "x cannot be loaded: Validation error for field: 'a' must be positive"
    with pytest.raises(UserError) as caught, fetching("x", local=True, instead="go"):
        raise ValueError("word " * 1000)
    assert len(str(caught.value)) < LONGEST + 50


def test_the_network_is_not_blamed_for_what_is_wrong_on_disk() -> None:
    with pytest.raises(UserError, match="x cannot be loaded"), fetching("x", local=True, instead="go"):
        raise OfflineModeIsEnabled("a folder needs no hub")
