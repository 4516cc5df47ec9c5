"""A search in one request finds what the page finds, and many at once are answered or refused."""

import shutil
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import numpy
import pytest
import torch

from dinokit.core.files import digest_of_model
from dinokit.curation.pool import Pool
from dinokit.features.embed import embed
from dinokit.search import change
from dinokit.studio import images, query
from dinokit.studio.search import Searcher
from dinokit.studio.start import of_index
from tests.studio.conftest import COUNT, Answer, Served, backbone, saved, served

CPU = torch.device("cpu")
SEED = 7


@pytest.fixture(scope="module")
def index(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    model = str(saved(folder, SEED))
    out = folder / "index"
    embed(model, str(pictures), out / "pool-0", feature="cls+gem", precision="fp32", workers=0)
    change.removed(change.begin(out, "pool-0", by="both", kind="exact"), ["1.png"])
    return out


@pytest.fixture(scope="module")
def shown(index: Path) -> Iterator[Served]:
    with served(of_index(index, size=16, device=CPU)) as found:
        yield found


def both(pictures: Path, number: int, index: Path) -> torch.Tensor:
    """What is compared of an image, by hand from its row."""
    pool = Pool(index / "pool-0")
    row = pool.table(["key"])["key"].to_pylist().index(f"{number}.png")
    cls, gem = torch.from_numpy(pool.vectors.read(row, row + 1)[0]).double().chunk(2)
    return torch.cat([cls / cls.norm(), gem / gem.norm()]) / 2**0.5


def test_by_name_and_by_image_the_nearest_of_the_index_are_found(shown: Served, index: Path, pictures: Path) -> None:
    left = [each for each in range(COUNT) if each not in (1, 5)]  # one was removed, one is no image
    asked = both(pictures, 2, index)
    exact = {each: float(asked @ both(pictures, each, index)) for each in left}
    wanted = [f"{each}.png" for each in sorted(exact, key=lambda each: -exact[each])]
    answer = shown.get("/api/query?name=2.png&count=9").json
    assert [hit["name"] for hit in answer["found"]] == [each for each in wanted if each != "2.png"]
    assert (answer["searched"], answer["of"]) == (len(left), len(left))
    sent = shown.ask("POST", "/api/query?count=3", (pictures / "2.png").read_bytes()).json
    assert [hit["name"] for hit in sent["found"]] == wanted[:3]
    assert wanted[0] == "2.png"
    assert sent["found"][0]["score"] == pytest.approx(1, abs=1e-3)


def test_an_image_of_the_index_is_asked_by_its_row_and_not_even_read(pictures: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "index"
    images.mkdir()
    for number in range(4):
        shutil.copy(pictures / f"{number}.png", images)
    embed(str(saved(tmp_path, SEED)), str(images), out / "pool-0", precision="fp32", workers=0)
    change.begin(out, "pool-0", by="cls", kind="exact")
    found = of_index(out, size=16, device=CPU)
    searcher = Searcher(found.seeing, found.index)
    (images / "2.png").unlink()
    hits = searcher.search("a", None, "2", None, count=9).hits
    rows = Pool(out / "pool-0").vectors.read(0, 4).astype(numpy.float64)
    cosines = {each: float(rows[2] @ rows[each]) for each in (0, 1, 3)}
    assert [hit.place for hit in hits] == sorted(cosines, key=lambda each: -cosines[each])
    found.close()


def test_by_a_place_of_the_query_the_best_patches_are_found(shown: Served, pictures: Path) -> None:
    sent = shown.ask("POST", "/api/query?count=9&at=14,7", (pictures / "2.png").read_bytes()).json
    # 30 x 20 pixels are 6 x 4 patches
    assert sent["found"][0]["name"] == "2.png"
    assert (sent["found"][0]["patch"], sent["found"][0]["grid"]) == ([1, 2], [4, 6])


@pytest.mark.parametrize(
    ("path", "status", "line"),
    [
        ("/api/query?name=1.png", 404, "no image is called '1.png'; /api/images lists them"),
        ("/api/query", 400, "expected one name, got 0; or send an image by POST"),
        ("/api/query?name=2.png&count=0", 400, "expected count to be a whole number from 1 on, got '0'"),
        ("/api/query?name=2.png&count=-1", 400, "expected count to be a whole number from 1 on, got '-1'"),
        ("/api/query?name=2.png&at=1", 400, "expected at to be X,Y in pixels such as 120,80, got '1'"),
        ("/api/query?name=2.png&at=nan,1", 400, "expected at to be X,Y in pixels such as 120,80, got 'nan,1'"),
        ("/api/query?name=2.png&at=99,1", 422, "expected x in 0..29 and y in 0..19 of the image, got 99,1"),
    ],
)
def test_a_mistake_is_one_line(shown: Served, path: str, status: int, line: str) -> None:
    answer = shown.get(path)
    assert (answer.status, answer.json) == (status, {"error": line})


def test_the_guard_stands_before_it(shown: Served, pictures: Path) -> None:
    assert shown.get("/api/query?name=2.png", Host="evil.example").status == 421
    data = (pictures / "2.png").read_bytes()
    assert shown.ask("POST", "/api/query", data, Origin="http://evil.example").status == 403


def test_fifty_at_once_are_answered_or_refused(shown: Served, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "WAITING", 8)
    found, data = list[Answer](), (pictures / "3.png").read_bytes()

    def ask() -> None:
        found.append(shown.ask("POST", "/api/query?count=1", data))

    clients = [threading.Thread(target=ask) for _ in range(50)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert len(found) == 50
    assert {each.status for each in found} <= {200, 503}
    answered = [each.json["found"][0]["name"] for each in found if each.status == 200]
    assert answered
    assert set(answered) == {"3.png"}
    assert shown.get("/api/query?name=3.png").status == 200  # nobody is left waiting


def test_the_weights_of_the_index_are_those_that_are_served(index: Path, shown: Served) -> None:
    about = shown.get("/api/about").json
    assert about["index"] is True
    assert Pool(index / "pool-0").stamp["weights"] == digest_of_model(backbone(SEED))


def test_what_was_dragged_in_outlives_any_number_of_queries(
    shown: Served, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "UPLOADS", 2)
    data = (pictures / "3.png").read_bytes()
    own = shown.ask("POST", "/api/images", data).json["id"]
    sent = [shown.ask("POST", "/api/query?count=1&at=2,2", data) for _ in range(3)]
    assert {each.status for each in sent} == {200}
    assert shown.get(f"/api/images/{own}/thumb").status == 200
    assert shown.get(f"/api/images/u{int(own[1:]) + 3}/thumb").status == 404  # a query is forgotten


def test_who_sends_slowly_keeps_no_search_waiting(shown: Served) -> None:
    slow = [HTTPConnection("127.0.0.1", shown.port) for _ in range(query.TURNS + query.WAITING)]
    for each in slow:
        each.putrequest("POST", "/api/query")
        each.putheader("Content-Length", "1000")
        each.endheaders(b"begun")
    try:
        assert shown.get("/api/query?name=2.png").status == 200
    finally:
        for each in slow:
            each.close()


def test_names_are_those_of_the_index_whose_sources_are_two(pictures: Path, tmp_path: Path) -> None:
    model, out = str(saved(tmp_path, SEED)), tmp_path / "index"
    for folder, numbers in (("one", (0, 2)), ("two", (2, 3))):
        (tmp_path / folder).mkdir()
        for number in numbers:
            shutil.copy(pictures / f"{number}.png", tmp_path / folder)
    embed(model, str(tmp_path / "one"), out / "pool-0", precision="fp32", workers=0)
    first = change.begin(out, "pool-0", by="cls", kind="exact")
    embed(model, str(tmp_path / "two"), out / "pool-1", precision="fp32", workers=0)
    change.added(first, "pool-1")
    with served(of_index(out, size=16, device=CPU)) as found:
        listed = [each["name"] for each in found.get("/api/images").json["images"]]
        answers = [found.get(f"/api/query?count=9&name={quote(name)}") for name in ("3.png", listed[-1])]
        assert answers[0].json == answers[1].json
        assert len(answers[0].json["found"]) == 3
        twice = found.get("/api/query?name=2.png")
        line = "2 images are called '2.png'; give the name of one as /api/images lists it"
        assert (twice.status, twice.json) == (400, {"error": line})
