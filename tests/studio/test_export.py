"""An exported page holds what a server would send, runs nothing but its own code, and loads nothing."""

import json
import re
from base64 import b64decode, b64encode
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from PIL import Image

from dinokit.cli import run as command
from dinokit.core.messages import UserError
from dinokit.studio import export
from dinokit.studio.start import opened
from tests.studio.conftest import Served


def data_of(text: str) -> dict:
    found = re.search(r'<script type="application/json" id="exported">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_a_page_holds_the_octets_that_the_server_sends(shared: Served, tmp_path: Path) -> None:
    written = export.export(shared.opened, tmp_path / "page.html", images=["6", "1.png"], steps=[0, 100])
    text = (tmp_path / "page.html").read_text()
    assert written == len(text.encode())
    data = data_of(text)
    assert data["images"] == [{"id": "0", "name": "6.png"}, {"id": "1", "name": "1.png"}]
    assert (data["about"]["count"], data["about"]["models"][0]["steps"]) == (2, [0, 100])
    names = {f"a/{image}/{step}" for image in "01" for step in (0, 100)} | {"b/0/", "b/1/"}
    assert (set(data["features"]), set(data["attention"])) == (names, names)
    for here, there in (("a/0/0", "model=a&step=0&image=6"), ("b/1/", "model=b&image=1")):
        for kind in ("features", "attention"):
            assert b64decode(data[kind][here]) == shared.get(f"/api/{kind}?{there}").data
    assert b64decode(data["thumbs"]["0"].partition(",")[2]) == shared.get("/api/images/6/thumb").data
    assert b64decode(data["pictures"]["b/1"].partition(",")[2]) == shared.get("/api/images/1/picture?model=b").data


def test_without_words_the_last_checkpoint_of_images_that_can_be_read(
    shared: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export.export(shared.opened, tmp_path / "page.html")
    data = data_of((tmp_path / "page.html").read_text())
    assert [each["name"] for each in data["images"]] == [f"{each}.png" for each in (0, 1, 2, 3, 4, 6, 7)]
    assert data["about"]["models"][0]["steps"] == [100]
    assert "5.png is passed over: not an image of a known format" in capsys.readouterr().err


def test_the_policy_names_what_the_page_holds_and_nothing_else(shared: Served, tmp_path: Path) -> None:
    export.export(shared.opened, tmp_path / "page.html", images=["0"])
    text = (tmp_path / "page.html").read_text()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    code = re.findall(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    style = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert (len(code), len(style), text.count("<script")) == (1, 1, 2)
    for inner in (code[0], style[0]):
        assert f"'sha256-{b64encode(sha256(inner.encode()).digest()).decode()}'" in policy[1]
    assert policy[1].startswith("default-src 'none'; ")
    assert "unsafe-inline" not in policy[1]
    assert not re.search(r'(src|href)="(?!data:)', text)
    assert text.index("Content-Security-Policy") < text.index("<title>")


def page(folder: Path, **modules: str) -> Path:
    for name, text in modules.items():
        (folder / f"{name}.js").write_text(text)
    return folder


def test_modules_stand_after_those_they_import_and_each_once(tmp_path: Path) -> None:
    found = export.joined(
        page(
            tmp_path,
            studio='import { a } from "./a.js";\nimport { s } from "./source.js";\nstart(a, s);\n',
            a='import { s } from "./source.js";\nexport const a = s;\n',
            source="export const s = fetch;\n",
            offline="export const s = 1;\n",
        )
    )
    assert found == "const s = 1;\n\nconst a = s;\n\nstart(a, s);\n"


@pytest.mark.parametrize("odd", ['import x from "./a.js";', "export { a };", 'const x = "</script>";', "x = '<!--';"])
def test_code_that_would_not_survive_is_not_joined(tmp_path: Path, odd: str) -> None:
    with pytest.raises(AssertionError):
        export.joined(page(tmp_path, studio=odd + "\n"))


def test_no_two_modules_have_a_name_in_common() -> None:
    names = re.findall(r"^(?:async )?(?:function\*?|class|const|let) (\w+)", export.joined(), re.MULTILINE)
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_names_of_images_end_no_script(tmp_path: Path, shared: Served) -> None:
    text = export.document({"images": [{"id": "0", "name": "</script><script>alert(1)</script>"}]})
    assert text.count("<script") == 2
    assert data_of(text)["images"][0]["name"] == "</script><script>alert(1)</script>"


@pytest.mark.parametrize(
    ("images", "steps", "line"),
    [
        (["8"], [], "expected --images of 0 to 7, got 8"),
        (["1.pgn"], [], "unknown image '1.pgn'; did you mean '1.png'"),
        (["1"], [50], "expected --steps of 0, 100, got 50"),
        (["5"], [], "expected images that can be read, got none of 1"),
    ],
)
def test_what_is_not_there_is_refused(shared: Served, tmp_path: Path, images: list, steps: list, line: str) -> None:
    with pytest.raises(UserError, match=re.escape(line)):
        export.export(shared.opened, tmp_path / "page.html", images=images, steps=steps)
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["page.png", "page", "folder.html"])
def test_a_place_that_is_none_of_a_page_is_refused_before_the_work(shared: Served, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UserError, match=f"expected --export to be a page such as .*html, got .*{name}"):
        export.export(shared.opened, tmp_path / name, images=["none"])
    with pytest.raises(UserError, match="cannot write to /proc/x: .*; give --export another place"):
        export.export(shared.opened, Path("/proc/x/page.html"), images=["none"])


def test_a_page_that_would_be_too_large_is_refused_early(
    shared: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "LARGEST", 3000)
    with pytest.raises(UserError, match=r"page.html would be 0 MB, at most 0 open well; take fewer --images, --steps"):
        export.export(shared.opened, tmp_path / "page.html")


def test_a_command_writes_a_page(models: dict[str, str], pictures: Path, tmp_path: Path) -> None:
    run, other = models
    named = [word for model in (run, f"{run}/checkpoints/0", other) for word in ("--model", model)]
    words = ["studio", *named, "--data", str(pictures), "--size", "16", "--export", str(tmp_path / "page.html")]
    assert command([*words, "--images", "0", "1", "--steps", "0"]) == 0
    told = data_of((tmp_path / "page.html").read_text())["about"]["models"]
    assert [model["name"] for model in told] == ["run", "run at 0", "model.safetensors"]
    assert [model["steps"] for model in told] == [[0], None, None]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--images", "1"], "--images is for --export; leave it out"),
        (["--export", "x.html", "--port", "8000"], "--port is for a page that is served; leave it out"),
        (["--host", "0.0.0.0"], "--host 0.0.0.0 shows the images to other machines; give a token too"),
        (["--export", "x.html", "--steps", "last"], "expected --steps to be whole numbers, got last"),
        (["--size", "0"], "--size must be at least 1, got 0"),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(
    words: list[str], line: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(["studio", "--model", "x", "--data", str(pictures), *words]) == 2
    assert line in capsys.readouterr().err


def test_an_image_that_is_too_long_is_passed_over_unless_it_is_named(
    models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "images").mkdir()
    for name, height in (("a.png", 20), ("line.png", 400)):
        Image.new("RGB", (1, height)).save(tmp_path / "images" / name)
    said = "line.png would be 16x6400 pixels, at most 4096 a side fit; give a smaller --size"
    with closing(opened(models, str(tmp_path / "images"), size=16, device=torch.device("cpu"))) as found:
        export.export(found, tmp_path / "page.html")
        assert [each["name"] for each in data_of((tmp_path / "page.html").read_text())["images"]] == ["a.png"]
        assert f"line.png is passed over: {said}" in capsys.readouterr().err
        with pytest.raises(UserError, match=said):
            export.export(found, tmp_path / "page.html", images=["line.png"])
