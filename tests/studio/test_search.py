"""What is found is what a plain product finds, and the answer says how much was searched."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from dinokit.core.messages import UserError
from dinokit.features.embed import embed
from dinokit.features.embedding import unit
from dinokit.images.decode import decode
from dinokit.images.intensity import normalised, prepare, to_unit
from dinokit.looks.field import field
from dinokit.studio import search
from dinokit.studio.search import Searcher
from dinokit.studio.start import opened
from tests.studio.conftest import COUNT, Served, backbone, saved

CPU = torch.device("cpu")
SEED = 7


def pixels(pictures: Path, index: int) -> torch.Tensor:
    return decode((pictures / f"{index}.png").read_bytes())


def token(pictures: Path, index: int) -> torch.Tensor:
    vit, ready = backbone(SEED), prepare(pixels(pictures, index), size=16, patch_size=4)
    return unit(vit(normalised(to_unit(ready[None]), vit.pixels)).cls)[0]


def patch_features(pictures: Path, index: int) -> torch.Tensor:
    found = field(backbone(SEED), pixels(pictures, index), name="x", size=16)
    return unit(found.patches.flatten(0, 1))


def embedded(searcher: Searcher, count: int) -> None:
    """Wait until so many images were embedded in the background."""
    until = time.monotonic() + 20
    while searcher.search("a", None, "0", None, count=1).searched < count:
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.fixture
def searcher(pictures: Path, tmp_path: Path) -> Iterator[Searcher]:
    found = opened({str(saved(tmp_path, SEED)): "x"}, str(pictures), size=16, device=CPU)
    yield Searcher(found.seeing, found.index)
    found.close()


def test_without_an_index_images_are_embedded_meanwhile_and_the_nearest_found(
    searcher: Searcher, pictures: Path
) -> None:
    readable = [each for each in range(COUNT) if each != 5]
    embedded(searcher, len(readable))
    found = searcher.search("a", None, "0", None, count=3)
    exact = {each: float(token(pictures, 0) @ token(pictures, each)) for each in readable if each}
    wanted = sorted(exact, key=lambda each: -exact[each])[:3]
    assert [hit.place for hit in found.hits] == wanted  # neither the image itself nor the one that is broken
    assert [hit.score for hit in found.hits] == pytest.approx([exact[each] for each in wanted], abs=1e-3)
    assert found.searched == len(readable)


def test_by_patch_the_best_patch_of_each_image_counts(searcher: Searcher, pictures: Path) -> None:
    embedded(searcher, COUNT - 1)
    found = searcher.search("a", None, "1", (2, 3), count=COUNT)
    mark = patch_features(pictures, 1)[2 * 6 + 3]
    exact = {each: patch_features(pictures, each) @ mark for each in range(COUNT) if each not in (1, 5)}
    order = sorted(exact, key=lambda each: -float(exact[each].max()))
    assert [hit.place for hit in found.hits] == order
    for hit in found.hits:
        assert hit.grid == (4, 6)
        assert hit.patch == divmod(int(exact[hit.place].argmax()), 6)
        assert hit.score == pytest.approx(float(exact[hit.place].max()), abs=0.01)
    assert found.searched == len(exact)
    with pytest.raises(UserError, match="expected a patch of 4 rows and 6 columns, got 4, 0"):
        searcher.search("a", None, "1", (4, 0), count=1)


def test_an_index_answers_for_all_images_and_for_its_weights_alone(pictures: Path, tmp_path: Path) -> None:
    model, other = str(saved(tmp_path / "a", SEED)), str(saved(tmp_path / "b", 1))
    embed(model, str(pictures), tmp_path / "pool", precision="fp32", workers=0)
    studio = opened({other: "other", model: "x"}, str(pictures), index=tmp_path / "pool", size=16, device=CPU)
    searcher = Searcher(studio.seeing, studio.index)
    assert (searcher.has_index("a", None), searcher.has_index("b", None)) == (False, True)
    found = searcher.search("b", None, "2", None, count=9)
    exact = {each: float(token(pictures, 2) @ token(pictures, each)) for each in range(COUNT) if each not in (2, 5)}
    assert [hit.place for hit in found.hits] == sorted(exact, key=lambda each: -exact[each])
    assert found.searched == COUNT - 1
    studio.close()
    with pytest.raises(UserError, match="was embedded by .*, whose weights are not those of other; embed the images"):
        opened({other: "other"}, str(pictures), index=tmp_path / "pool", device=CPU)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.new("RGB", (20, 20)).save(elsewhere / "another.png")
    with pytest.raises(UserError, match="none of its images is in"):
        opened({model: "x"}, str(elsewhere), index=tmp_path / "pool", device=CPU)


def test_images_that_were_added_or_are_gone_do_not_shift_what_an_index_finds(pictures: Path, tmp_path: Path) -> None:
    model, folder = str(saved(tmp_path / "a", SEED)), tmp_path / "images"
    folder.mkdir()
    for index in range(4):
        Image.open(pictures / f"{index}.png").save(folder / f"{index}.png")
    embed(model, str(folder), tmp_path / "pool", precision="fp32", workers=0)
    (folder / "1.png").unlink()
    Image.open(pictures / "6.png").save(folder / "0a.png")
    studio = opened({model: "x"}, str(folder), index=tmp_path / "pool", size=16, device=CPU)
    names = [studio.seeing.images.about(str(index))["name"] for index in range(4)]
    searcher = Searcher(studio.seeing, studio.index)
    found = searcher.search("a", None, str(names.index("0.png")), None, count=9)
    assert sorted(names[hit.place] for hit in found.hits) == ["2.png", "3.png"]
    studio.close()


def test_a_page_is_told_names_and_how_much_was_searched(shared: Served) -> None:
    answer = shared.ask("POST", "/api/search", {"model": "b", "image": "0", "patch": [1, 2], "count": 2}).json
    assert answer["of"] == COUNT
    assert set(answer) == {"found", "searched", "of"}
    for each in answer["found"]:
        assert set(each) == {"id", "name", "score", "patch", "grid"}
        assert each["name"] == f"{each['id']}.png"


def test_class_tokens_are_held_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "NUMBERS", 30)
    gallery = search.Gallery(100, 10)
    for place in range(5):
        gallery.add(place, numpy.eye(10, dtype=numpy.float32)[place])
        gallery.add(place, numpy.eye(10, dtype=numpy.float32)[place])
    found = gallery.nearest(numpy.eye(10, dtype=numpy.float32)[2], count=9, but=0)
    assert (len(gallery), found.places.tolist(), found.searched) == (3, [2, 1], 3)
