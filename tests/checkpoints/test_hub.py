"""Published weights by name: found wherever they lie, fetched where they do not, never a wrong file under a name."""

import json
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from dinokit.checkpoints import hub
from dinokit.checkpoints.convert import convert
from dinokit.checkpoints.layouts import huggingface
from dinokit.checkpoints.layouts.recognise import official as export
from dinokit.checkpoints.load import load
from dinokit.core.messages import UserError
from dinokit.models.architecture import ARCHITECTURES, VARIANTS
from dinokit.models.vit import VisionTransformer

NAME, REPOSITORY = "vits14.dinov2_reg4", "facebook/dinov2-with-registers-small"
NOWHERE = "http://127.0.0.1:9"  # the port that discards: nobody listens


@pytest.fixture(autouse=True)
def nothing_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No mirror, no earlier downloads and no hub, whatever this machine has."""
    monkeypatch.delenv(hub.MIRROR, raising=False)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOWHERE)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights in the official layout of NAME."""
    file = tmp_path_factory.mktemp("official") / "weights.pth"
    torch.save(export(VisionTransformer(VARIANTS["dinov2_vits14_reg"], seed=3)).weights, file)
    return file


def put(file: Path, content: bytes = b"weights") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


@pytest.mark.parametrize(
    ("place", "found"),
    [
        (f"{NAME}.pth", f"{NAME}.pth"),
        (f"{NAME}.safetensors", f"{NAME}.safetensors"),
        (f"{NAME}/model.safetensors", NAME),
        ("dinov2_vits14_reg4_pretrain.pth", "dinov2_vits14_reg4_pretrain.pth"),
        ("dinov2_vits14/dinov2_vits14_reg4_pretrain.pth", "dinov2_vits14/dinov2_vits14_reg4_pretrain.pth"),
        (f"{REPOSITORY}/model.safetensors", REPOSITORY),
        ("dinov2-with-registers-small/pytorch_model.bin", "dinov2-with-registers-small"),
    ],
)
def test_a_mirror_may_name_the_file_in_any_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, found: str
) -> None:
    put(tmp_path / "mirror" / "dinov2_vits14_pretrain.pth")  # of the model without registers
    put(tmp_path / "mirror" / place)
    monkeypatch.setenv(hub.MIRROR, str(tmp_path / "mirror"))
    assert hub.find(NAME) == tmp_path / "mirror" / found


def test_official_hashes_are_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub.MIRROR, str(tmp_path))
    file = put(tmp_path / "dinov3_vits16_pretrain_lvd1689m-08c60483.pth")
    put(tmp_path / "dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth")
    assert hub.find("vits16.dinov3_lvd1689m") == file


def test_earlier_downloads_of_torch_hub_are_used_after_the_mirror(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put(tmp_path / "torch" / "checkpoints" / "dinov2_vits14_reg4_pretrain.pth")
    assert hub.find(NAME) == file
    monkeypatch.setenv(hub.MIRROR, str(tmp_path / "mirror"))
    mirrored = put(tmp_path / "mirror" / f"{NAME}.pth")
    assert hub.find(NAME) == mirrored


def test_a_folder_without_all_its_parts_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub.MIRROR, str(tmp_path))
    put(tmp_path / NAME / "model.safetensors.index.json")
    put(tmp_path / NAME / "model-00001-of-00002.safetensors")
    file = put(tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    assert hub.find(NAME) == file
    put(tmp_path / NAME / "model-00002-of-00002.safetensors")
    assert hub.find(NAME) == tmp_path / NAME


@pytest.mark.parametrize("mirror", [True, False])
def test_a_closed_network_says_where_to_put_which_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mirror: bool
) -> None:
    if mirror:
        monkeypatch.setenv(hub.MIRROR, str(tmp_path))
    with pytest.raises(UserError) as caught:
        load(NAME)
    message = str(caught.value)
    assert "\n" not in message
    assert f"is not in {tmp_path / 'cache'} and {NOWHERE} is out of reach; put" in message
    assert "dinov2_vits14_reg4_pretrain.pth" in message
    assert (str(tmp_path) if mirror else "set DINOKIT_WEIGHTS") in message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vits14.dinov2_reg", "did you mean vits14.dinov2_reg4"),
        ("resnet50.dino", "nor on the Hugging Face hub; put dino_resnet50_pretrain.pth"),
        ("nothing/like/it", "published weights that `dinokit models` lists"),
    ],
)
def test_a_name_that_leads_nowhere_says_so(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(name)


def test_a_mirror_that_is_no_folder_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hub.MIRROR, str(tmp_path / "gone"))
    with pytest.raises(UserError, match="is no folder"):
        load(NAME)


def test_weights_by_name_bring_their_licence_and_keep_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, official: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(hub.MIRROR, str(tmp_path))
    (tmp_path / f"{NAME}.pth").symlink_to(official)
    backbone = load(NAME)
    assert isinstance(backbone, VisionTransformer)
    assert backbone.config == VARIANTS["dinov2_vits14_reg"]
    assert backbone.licence == "Apache-2.0"
    assert f"{NAME}: Apache-2.0" in capsys.readouterr().err
    convert(Path(NAME), tmp_path / "ours.safetensors", to="dinokit")
    assert load(tmp_path / "ours.safetensors").licence == "Apache-2.0"
    assert load(official).licence is None  # a file alone does not say who made it


def test_another_network_under_a_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, official: Path
) -> None:
    monkeypatch.setenv(hub.MIRROR, str(tmp_path))
    (tmp_path / "vits14.dinov2.pth").symlink_to(official)
    with pytest.raises(UserError, match="should be a dinov2_vits14 but is nearest to dinov2_vits14_reg"):
        load("vits14.dinov2")


def test_satellite_weights_want_the_statistics_of_satellite_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, official: Path
) -> None:
    assert hub.RELEASES["vitl16.dinov3_sat493m"].pixels.mean == (0.430, 0.411, 0.296)
    assert hub.RELEASES["vitl16.dinov3_lvd1689m"].pixels.mean == (0.485, 0.456, 0.406)
    monkeypatch.setenv(hub.MIRROR, str(tmp_path))
    (tmp_path / f"{NAME}.pth").symlink_to(official)
    monkeypatch.setitem(hub.RELEASES, NAME, replace(hub.RELEASES[NAME], pixels=hub.SATELLITE))
    assert load(NAME).pixels == hub.SATELLITE


def test_a_name_means_the_same_periods_wherever_its_file_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Copies in other layouts leave the periods out; official files hold them rounded to bfloat16."""
    name = "vits16.dinov3_lvd1689m"
    network = VisionTransformer(VARIANTS["dinov3_vits16"])
    monkeypatch.setenv(hub.MIRROR, str(tmp_path))
    exported = huggingface.export(network)
    (tmp_path / name).mkdir()
    weights = {key: value.contiguous() for key, value in exported.weights.items()}
    save_file(weights, tmp_path / name / "model.safetensors")
    for file, content in exported.files.items():
        (tmp_path / name / file).write_text(json.dumps(content))
    periods = load(name).get_buffer("rope_embed.periods")
    assert periods[:4].tolist() == [1.0, 1.3359375, 1.78125, 2.375]
    assert load(name, exact_periods=True).get_buffer("rope_embed.periods")[1].item() != periods[1].item()


def test_names_are_those_of_the_publishers() -> None:
    known = {
        "vits16.dino": ("dino_deitsmall16_pretrain", "facebook/dino-vits16"),
        "vitb8.dino": ("dino_vitbase8_pretrain", "facebook/dino-vitb8"),
        "resnet50.dino": ("dino_resnet50_pretrain", None),
        "vitl14.dinov2": ("dinov2_vitl14_pretrain", "facebook/dinov2-large"),
        "vitg14.dinov2_reg4": ("dinov2_vitg14_reg4_pretrain", "facebook/dinov2-with-registers-giant"),
        "vit7b16.dinov3_sat493m": ("dinov3_vit7b16_pretrain_sat493m", "facebook/dinov3-vit7b16-pretrain-sat493m"),
        "convnext_tiny.dinov3_lvd1689m": (
            "dinov3_convnext_tiny_pretrain_lvd1689m",
            "facebook/dinov3-convnext-tiny-pretrain-lvd1689m",
        ),
    }
    assert known == {name: (hub.RELEASES[name].file, hub.RELEASES[name].repository) for name in known}


def test_every_name_is_a_known_architecture_with_its_own_file() -> None:
    assert {release.architecture for release in hub.RELEASES.values()} <= set(ARCHITECTURES)
    for keys in ("file", "repository"):
        values = [getattr(release, keys) for release in hub.RELEASES.values()]
        assert len(set(values)) == len(values)


FILES = {"config.json": b"{}", "model.safetensors": b"safe", "pytorch_model.bin": b"pickle", "README.md": b"words"}


class StandIn(BaseHTTPRequestHandler):
    """As much of the Hugging Face hub as a download needs: the list of files, and each of them."""

    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        commit = "c" * 40
        if self.path.startswith("/api/"):
            about = {"id": REPOSITORY, "sha": commit, "siblings": [{"rfilename": name} for name in FILES]}
            tree = [{"type": "file", "path": name, "size": len(FILES[name]), "oid": name} for name in FILES]
            body = json.dumps(tree if "/tree/" in self.path else about).encode()
        else:
            name = self.path.rsplit("/", 1)[1]
            body = FILES.get(name, b"")
            if self.command == "GET":
                self.asked.append(name)
        self.send_response(200)
        for key, value in {"X-Repo-Commit": commit, "ETag": f'"{len(body)}"', "Content-Length": len(body)}.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    asked: list[str] = []
    handler = type("Handler", (StandIn,), {"asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", here)
        template = here + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield asked
        server.shutdown()


def test_a_download_takes_one_kind_of_weights_and_is_kept(
    hub_server: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.find(NAME)
    assert (folder / "model.safetensors").read_bytes() == b"safe"
    assert sorted(hub_server) == ["config.json", "model.safetensors"]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", NOWHERE)
    assert hub.find(NAME) == folder


def test_what_is_downloaded_of_a_large_model_is_its_parts() -> None:
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    assert set(hub._wanted([*parts, "pytorch_model.bin", "README.md"])) == {*hub.DESCRIPTIONS, *parts}


def test_an_architecture_stands_for_its_only_weights() -> None:
    assert hub.named("dinov2_vits14") == "vits14.dinov2"
    assert hub.is_name("dinov3_vits16")
    assert hub.named("dinov3_vitl16") == hub.named("vit_micro") == ""  # two, none
