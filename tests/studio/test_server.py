"""Every address of the studio gives what a page is promised, and an error is one line of JSON."""

import http.client
import io
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy
import pytest
import torch
import uvicorn
from PIL import Image

from dinokit.commands.studio import studio
from dinokit.dense.draw import rgb
from dinokit.features.embedding import unit
from dinokit.images.decode import decode
from dinokit.looks import attention
from dinokit.looks.field import Field, field
from dinokit.studio import images
from dinokit.studio.start import opened
from tests.studio.conftest import BROKEN, COUNT, Served, backbone, saved, served


def seen(pictures: Path, index: int, seed: int) -> Field:
    picture = decode((pictures / f"{index}.png").read_bytes())
    return field(backbone(seed), picture, name="x", size=16)


def features(data: bytes) -> tuple[numpy.ndarray, numpy.ndarray]:
    rows, columns, dim = struct.unpack_from("<3I", data)
    count = rows * columns
    scale = numpy.frombuffer(data, "<f4", count, 12)
    values = numpy.frombuffer(data, numpy.int8, count * dim, 12 + 4 * count)
    assert len(data) == 12 + 4 * count + count * dim
    return scale, values.reshape(rows, columns, dim)


def test_a_page_is_told_what_there_is(shared: Served) -> None:
    about = shared.get("/api/about").json
    run, other = about["models"]
    assert run == {
        "id": "a",
        "name": "run",
        "patch": 4,
        "dim": 16,
        "heads": 2,
        "blocks": 2,
        "steps": [0, 100],
    }
    assert (other["id"], other["name"], other["steps"]) == ("b", "other", None)
    assert (about["count"], about["size"], about["index"]) == (COUNT, 16, False)
    assert about["upload"] == {"bytes": images.BYTES, "pixels": images.PIXELS, "kept": images.UPLOADS}


def test_images_are_listed_page_by_page(shared: Served) -> None:
    found = shared.get("/api/images?from=6&count=60").json
    assert found == {"count": COUNT, "images": [{"id": "6", "name": "6.png"}, {"id": "7", "name": "7.png"}]}
    assert shared.get("/api/images?from=99").json["images"] == []
    assert len(shared.get("/api/images").json["images"]) == COUNT


def test_pictures_are_small_in_the_list_and_what_a_model_sees_elsewhere(shared: Served, pictures: Path) -> None:
    thumb = shared.get("/api/images/0/thumb")
    assert (thumb.headers["content-type"], Image.open(io.BytesIO(thumb.data)).size) == ("image/jpeg", (30, 20))
    answer = shared.get("/api/images/0/picture?model=a")
    picture = Image.open(io.BytesIO(answer.data))
    assert answer.headers["content-type"] == "image/webp"
    assert numpy.array_equal(numpy.asarray(picture), rgb(seen(pictures, 0, 0).seen))


@pytest.mark.parametrize(("query", "seed"), [("model=a&step=0", 0), ("model=a", 100), ("model=b", 7)])
def test_features_are_those_of_the_field_at_length_1(shared: Served, pictures: Path, query: str, seed: int) -> None:
    answer = shared.get(f"/api/features?{query}&image=1")
    scale, values = features(answer.data)
    exact = unit(seen(pictures, 1, seed).patches.flatten(0, 1)).reshape(4, 6, 16).numpy()
    assert answer.headers["content-type"] == "application/octet-stream"
    # half a step, and what making it length 1 has changed
    assert (numpy.abs(scale.reshape(4, 6, 1) * values - exact) <= 0.6 * scale.reshape(4, 6, 1)).all()


def test_attention_is_of_each_head_over_its_largest_value(shared: Served, pictures: Path) -> None:
    for query, block in (("", 1), ("&block=0", 0)):
        data = shared.get(f"/api/attention?model=b&image=2{query}").data
        assert struct.unpack_from("<3I", data) == (3, 4, 6)
        heads = attention.from_cls(backbone(7), seen(pictures, 2, 7), block)
        exact = torch.cat([heads.mean(dim=0, keepdim=True), heads])
        exact = 255 * exact / exact.amax(dim=(1, 2), keepdim=True)
        found = torch.frombuffer(bytearray(data[12:]), dtype=torch.uint8).reshape(3, 4, 6)
        assert (found - exact).abs().max() <= 0.51
    answer = shared.get("/api/attention?model=b&image=2&block=2")
    assert (answer.status, answer.json["error"]) == (404, "model b has the blocks 0 to 1, got block 2")


@pytest.mark.parametrize(
    "path", ["/api/images/5/thumb", "/api/features?model=a&image=5", "/api/images/5/picture?model=a"]
)
def test_an_image_that_cannot_be_read_says_why(shared: Served, path: str) -> None:
    assert BROKEN == "5.png"
    answer = shared.get(path)
    assert (answer.status, answer.json) == (422, {"error": "not an image of a known format"})


@pytest.mark.parametrize(
    ("path", "status", "line"),
    [
        ("/api/features?model=a&image=8", 404, "expected an image of 0 to 7, or of u1 and more, got '8'"),
        ("/api/features?model=a&image=٣", 404, "expected an image of 0 to 7"),
        ("/api/features?model=a&image=00", 404, "expected an image"),
        ("/api/features?model=z&image=0", 404, "expected one of the models a, b, got 'z'"),
        ("/api/features?model=a&image=0&step=5", 404, "expected a step of 0, 100, got 5"),
        ("/api/features?model=b&image=0&step=5", 404, "model b is no run and has no steps, got step 5; leave it out"),
        ("/api/features?model=a&image=0&step=-1", 400, "expected step to be a whole number, got '-1'"),
        ("/api/features?image=0", 400, "expected one model, got 0"),
        ("/api/images/u999/thumb", 404, "the upload u999 is no longer kept"),
        ("/api/images?count=x", 400, "expected count to be a whole number, got 'x'"),
        ("/api/nothing", 404, "nothing is at this address; the page is at /"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(shared: Served, path: str, status: int, line: str) -> None:
    answer = shared.get(path.replace("٣", "%D9%A3"))
    assert (answer.status, list(answer.json)) == (status, ["error"])
    assert answer.json["error"].startswith(line)


def test_addresses_take_their_own_methods_alone(shared: Served) -> None:
    for method, path in (("POST", "/api/about"), ("GET", "/api/search"), ("DELETE", "/api/images"), ("OPTIONS", "/")):
        answer = shared.ask(method, path)
        assert (answer.status, answer.json) == (405, {"error": "the address takes other methods"})


def encoded(size: tuple[int, int] = (24, 16), colour: int = 90) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (colour, 20, 200)).save(file, "PNG")
    return file.getvalue()


def test_an_upload_is_looked_at_like_an_image_of_the_source(shared: Served) -> None:
    answer = shared.ask("POST", "/api/images", encoded(), X_Name="sch%C3%B6n.png")
    assert (answer.status, answer.json["name"]) == (201, "schön.png")
    id = answer.json["id"]
    assert Image.open(io.BytesIO(shared.get(f"/api/images/{id}/thumb").data)).size == (24, 16)
    _, values = features(shared.get(f"/api/features?model=a&image={id}").data)
    assert values.shape == (4, 6, 16)


def test_an_upload_that_no_model_can_see_is_refused_when_it_comes(shared: Served) -> None:
    answer = shared.ask("POST", "/api/images", encoded((16 * 300, 16)))
    line = "4800 x 16 pixels are too long; a long side of up to 256 times the short one fits: crop it"
    assert (answer.status, answer.json) == (422, {"error": line})
    rows = io.BytesIO()
    numpy.save(rows, numpy.zeros((3, 40, 40), numpy.uint8))
    assert shared.ask("POST", "/api/images", rows.getvalue()).status == 201  # whose header says bytes, no sides
    id = shared.ask("POST", "/api/images", encoded((16 * 256, 16)), X_Name="long").json["id"]
    assert shared.get(f"/api/images/{id}/picture?model=a").status == 200
    assert shared.get(f"/api/features?model=a&image={id}").status == 200


def test_attention_of_too_many_patches_is_refused_in_words_for_the_page(
    shared: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "MOST", 20)
    id = shared.ask("POST", "/api/images", encoded(colour=7), X_Name="long").json["id"]
    answer = shared.get(f"/api/attention?model=a&image={id}")
    assert answer.status == 422
    assert answer.json == {"error": "long has 24 patches, attention takes 20; crop it to be less long"}


def test_of_uploads_the_newest_are_kept(shared: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "UPLOADS", 2)
    ids = [shared.ask("POST", "/api/images", encoded(colour=each)).json["id"] for each in range(3)]
    assert [shared.get(f"/api/features?model=a&image={id}").status for id in ids] == [404, 200, 200]
    line = shared.get(f"/api/images/{ids[0]}/thumb").json["error"]
    assert line == f"the upload {ids[0]} is no longer kept, only the newest 2 are; drag it in once more"


def test_a_page_is_served_from_its_folder_alone(models: dict[str, str], pictures: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    page.mkdir()
    (page / "index.html").write_text("<!doctype html>hello")
    (page / "studio.js").write_text("let x;")
    (tmp_path / "secret.txt").write_text("secret")
    (page / "link.txt").symlink_to(tmp_path / "secret.txt")
    model = dict(list(models.items())[1:])
    with served(opened(model, str(pictures), size=16, device=torch.device("cpu")), page=page) as found:
        assert found.get("/").data == b"<!doctype html>hello"
        assert "javascript" in found.get("/page/studio.js").headers["content-type"]
        for path in (
            "../secret.txt",
            "%2e%2e/secret.txt",
            "..%2fsecret.txt",
            "link.txt",
            "//etc/passwd",
            "",
            "..%5csecret.txt",
        ):
            answer = found.get(f"/page/{path}")
            assert (answer.status, list(answer.json)) == (404, ["error"]), path


def test_an_answer_is_not_kept_waiting_by_the_network(tmp_path: Path, pictures: Path) -> None:
    found = opened({str(saved(tmp_path, 1)): "x"}, str(pictures), size=16, device=torch.device("cpu"))
    began, go = threading.Event(), threading.Event()
    with served(found) as studio:
        found.seeing.passes.ask("slow", lambda: began.set() or go.wait(20))
        assert began.wait(20)
        statuses: list[int] = []
        askers = [
            threading.Thread(
                target=lambda each=each: statuses.append(studio.get(f"/api/features?model=a&image={each}").status)
            )
            for each in (0, 1, 1, 1)
        ]
        for each in askers:
            each.start()
        while len(found.seeing.passes) < 3:  # the slow one, and two images
            time.sleep(0.005)
        assert studio.get("/api/images").status == 200
        assert not statuses
        go.set()
        for each in askers:
            each.join()
        assert statuses == [200] * 4


def test_a_server_that_has_ended_was_interrupted(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not its loop says so."""
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)
    with pytest.raises(KeyboardInterrupt):
        studio(model=str(saved(tmp_path, 1)), data=str(pictures), size=16, port=0)


@pytest.mark.slow
def test_an_interrupt_ends_a_studio_that_said_its_address(tmp_path: Path, pictures: Path) -> None:
    words = ["studio", "--model", str(saved(tmp_path, 1)), "--data", str(pictures), "--size", "16"]
    with subprocess.Popen([sys.executable, "-m", "dinokit", *words], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ · Ctrl-C ends it\n", line)
        assert address is not None, line
        connection = http.client.HTTPConnection("127.0.0.1", int(address[1]), timeout=20)
        with closing(connection):
            connection.request("GET", "/api/about")
            assert connection.getresponse().status == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        assert process.stderr.read() == "interrupted\n"
