"""From a folder of images to an index that is asked, grows and shrinks, by the words of the shell."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from dinokit.cli import run
from dinokit.commands.search import search, search_build, search_query
from dinokit.core.messages import UserError
from dinokit.search import change
from dinokit.search.index import Index
from dinokit.studio.start import of_index
from tests.curation.pools import make_pool
from tests.search.indices import made, noise
from tests.studio.conftest import COUNT, pictures, saved

__all__ = ["pictures"]
SEED = 7


def read_picture(path: Path) -> Image.Image:
    with Image.open(path) as file:
        return file.copy()


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(saved(tmp_path / "model", SEED))


@pytest.fixture
def index(tmp_path: Path, model: str, pictures: Path) -> Path:
    return search_build(model=model, data=str(pictures), out=tmp_path / "index", workers=0)


def test_a_file_finds_itself_and_a_name_finds_the_others(
    index: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    by_file, by_name = search_query(index, (str(pictures / "2.png"), "2.png"), k=3, json=True)
    assert json.loads(capsys.readouterr().out) == [by_file, by_name]
    assert (by_file["query"], by_file["searched"]) == ("2.png", COUNT - 1)
    assert [line["name"] for line in by_file["found"]] == ["2.png", *(line["name"] for line in by_name["found"][:2])]
    assert by_file["found"][0]["cosine"] == pytest.approx(1, abs=1e-3)


def test_a_place_of_the_query_is_found_in_it_and_drawn(index: Path, pictures: Path, tmp_path: Path) -> None:
    (found,) = search_query(index, (str(pictures / "2.png"),), at="14,7", size=16, k=2, out=tmp_path / "sheet.png")
    first = found["found"][0]
    assert (first["name"], first["patch"], first["at"]) == ("2.png", [1, 2], [12.5, 7.5])
    assert first["cosine"] == pytest.approx(1, abs=1e-5)
    assert read_picture(tmp_path / "sheet.png").height > 2 * 16
    search_query(index, ("2.png",), size=16, k=2, out=tmp_path / "agreed.png")
    assert read_picture(tmp_path / "agreed.png").width > 4 * 24


def test_images_that_were_added_to_the_folder_are_taken_in_once(
    index: Path, pictures: Path, tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = tmp_path / "more"
    more.mkdir()
    shutil.copy(pictures / "3.png", more / "copy.png")
    assert run(["search", "add", str(index), "--data", str(more)]) == 0
    said = capsys.readouterr().err
    assert "8 images, 1 of them new" in said
    assert "1 of them are, byte by byte, the same file as another image: `dinokit search near" in said
    Image.new("RGB", (20, 20), "red").save(more / "red.png")
    (more / "broken.png").write_bytes(b"")
    assert run(["search", "add", str(index), "--data", str(more)]) == 0
    assert "9 images, 1 of them new · 2 unreadable ·" in capsys.readouterr().err
    assert run(["search", "near", str(index), "--above", "0.99999", "--json"]) == 0
    (pair,) = json.loads(capsys.readouterr().out)
    assert {pair["name"], pair["other"]} == {"3.png", "copy.png"}
    other = saved(tmp_path / "other", 1)
    assert run(["search", "add", str(index), "--data", str(more), "--model", str(other)]) == 2
    assert f"was made with other weights; give --model the one of {model}" in capsys.readouterr().err
    assert len(Index(index)) == 9


def test_weights_that_were_moved_are_found_and_others_refused(
    index: Path, model: str, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(model).rename(tmp_path / "moved.safetensors")
    words = ["search", "query", str(index), str(pictures / "2.png")]
    assert run(words) == 2
    elsewhere = "; or give --model the place where the weights of the index lie now"
    said = capsys.readouterr().err
    assert f"no model at {model}" in said
    assert elsewhere in said
    assert run(["search", "add", str(index), "--data", str(pictures)]) == 2
    assert elsewhere in capsys.readouterr().err
    assert run([*words, "--model", str(tmp_path / "nowhere")]) == 2
    assert elsewhere not in capsys.readouterr().err
    assert run([*words, "--model", str(tmp_path / "moved.safetensors")]) == 0
    capsys.readouterr()
    other = str(saved(tmp_path / "other", 1))
    assert run([*words, "--model", other]) == 2
    assert f"error: {index} was made with other weights; give --model the one of {model}\n" in capsys.readouterr().err
    Path(other).rename(model)
    assert run(words) == 2
    assert f"{model} has changed: give --model what it was, or build the index anew" in capsys.readouterr().err


def test_a_page_by_other_weights_is_refused_and_says_which(index: Path, model: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"; give --model the one of {model}$"):
        of_index(index, model=str(saved(tmp_path / "other", 1)), size=16, device=torch.device("cpu"))
    Path(model).unlink()
    with pytest.raises(UserError, match="; or give --model the place where the weights of the index lie now$"):
        of_index(index, size=16, device=torch.device("cpu"))


@pytest.mark.parametrize("ending", ["npy", "parquet"])
@pytest.mark.parametrize("left", [0.5, None])
def test_of_an_index_that_is_damaged_it_is_said_how_to_build_it_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str, left: float | None
) -> None:
    index = tmp_path / "i"
    made(index, noise(6))
    part = index / "pool-0" / f"part-00000.{ending}"
    if left is None:
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[: int(left * part.stat().st_size)])
    for words in (["query", str(index), "2.png"], ["add", str(index), "--data", str(tmp_path)]):
        assert run(["search", *words]) == 2
        said = capsys.readouterr().err
        assert "; build the index anew in another folder: dinokit search build --model m --data IMAGES --out F" in said
        assert "delete" not in said
        assert "again" not in said


def test_an_addition_knows_no_other_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    index = tmp_path / "images" / "i"
    index.parent.mkdir()
    made(index, noise(6))
    assert run(["search", "add", str(index), "--data", str(index.parent)]) == 2
    assert f"lies among the images of {index.parent}; move the index elsewhere\n" in capsys.readouterr().err

    def taken(*_: object, **__: object) -> None:
        raise BlockingIOError

    monkeypatch.setattr("dinokit.core.files.locked", taken)
    for words in (["add", str(index), "--data", str(tmp_path / "none")], ["remove", str(index), "2.png"]):
        assert run(["search", *words]) == 2
        assert f"another process writes to {index}; wait for it\n" in capsys.readouterr().err


def test_without_pyarrow_the_extra_of_search_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "i", noise(6))
    for name in [each for each in sys.modules if each.partition(".")[0] == "pyarrow"]:
        monkeypatch.setitem(sys.modules, name, None)
    build = ["build", "--model", "m", "--data", str(tmp_path), "--out", str(tmp_path / "j")]
    for words in (build, ["query", str(tmp_path / "i"), "2.png"], ["add", str(tmp_path / "i"), "--data", "x"]):
        assert run(["search", *words]) == 2
        assert "pip install 'dinokit[search]'" in capsys.readouterr().err


def test_removing_and_taking_back(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["search", "remove", str(index), "2.png", "[67].png"]) == 0
    assert "3 images removed · 4 are searched" in capsys.readouterr().err
    assert run(["search", "query", str(index), "2.png"]) == 2
    said = capsys.readouterr().err
    assert "unknown image, neither a file nor of the index: '2.png'" in said
    assert "6.png" not in said  # it was removed, too
    assert search(index)["images"] == 4
    assert run(["search", "remove", str(index), "2.png", "--undo"]) == 0
    assert search(index)["images"] == 5


def test_an_image_that_was_deleted_is_not_found_which_is_said_until_it_is_removed(
    tmp_path: Path, model: str, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, index = shutil.copytree(pictures, tmp_path / "photos"), tmp_path / "index"
    search_build(model=model, data=str(photos), out=index, workers=0)
    first = search_query(index, ("2.png",), k=2)[0]["found"][0]["name"]
    (photos / first).unlink()
    capsys.readouterr()
    (found,) = search_query(index, ("2.png",), k=2)
    assert (len(found["found"]), found["gone"]) == (2, [first])
    said = f"1 images that are as near are gone, such as {first}; `dinokit search remove {index} --gone` leaves out all"
    assert said in capsys.readouterr().err
    assert run(["search", "near", str(index), "--above", "-1"]) == 0
    assert f"{COUNT - 2} pairs are left out, of which an image is gone;" in capsys.readouterr().err
    assert run(["search", "remove", str(index), "--gone"]) == 0
    assert f"1 images removed · {COUNT - 2} are searched" in capsys.readouterr().err
    assert search_query(index, ("2.png",), k=2)[0]["gone"] == []
    for words in (["--gone", "2.png"], [], ["--gone", "--undo"]):
        assert run(["search", "remove", str(index), *words]) == 2
        assert "expected names of images, or else --gone alone" in capsys.readouterr().err


def test_where_none_of_the_images_is_there_their_names_are_shown_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mount").mkdir()
    index = tmp_path / "i"
    made(index, noise(6), data=str(tmp_path / "mount"))
    (found,) = search_query(index, ("2.png",), k=2)
    assert [line["name"] for line in found["found"]] == found["gone"]
    said = (
        f"none of these is where it was, such as {found['gone'][0]}: put the images of {index} back, or build it anew"
    )
    assert said in capsys.readouterr().err


def test_classes_choose_what_is_compared_and_without_them_it_is_said(
    tmp_path: Path, model: str, pictures: Path, index: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = tmp_path / "classes"
    for number in range(4):
        (classes / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(pictures / f"{number}.png", classes / "ab"[number % 2] / f"{number}.png")
    capsys.readouterr()
    search_build(model=model, data=str(classes), out=tmp_path / "chosen", workers=0)
    table = capsys.readouterr().out
    assert [word for word in ("cls", "gem", "both", "mAP", "chosen") if word not in table] == []
    found = Index(tmp_path / "chosen").about
    assert found.scores is not None
    assert max(found.scores.values(), key=lambda each: each.precision) == found.scores[found.by]
    assert Index(index).about.by == "cls"
    search_build(model=model, data=str(pictures), out=tmp_path / "again", workers=0)
    assert "no two classes of two images to measure by: cls is compared" in capsys.readouterr().err


def test_a_build_that_was_killed_goes_on_and_a_second_one_is_refused(
    tmp_path: Path, model: str, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "index"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(change, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        search_build(model=model, data=str(pictures), out=out, workers=0)
    monkeypatch.undo()
    capsys.readouterr()
    words = ["search", "build", "--model", model, "--data", str(pictures), "--out", str(out)]
    assert run(words) == 0
    assert "nothing new" in capsys.readouterr().err
    assert [path.name for path in out.glob("pool-*")] == ["pool-0"]
    assert run(words) == 2
    assert "is an index already; `dinokit search add" in capsys.readouterr().err


def test_embedded_images_are_shared(tmp_path: Path, index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = index / "pool-0"
    assert run(["search", "build", "--data", str(pool), "--by", "gem", "--out", str(tmp_path / "b")]) == 0
    assert Index(tmp_path / "b").about.by == "gem"
    assert run(["search", "remove", str(pool), "2.png"]) == 2
    assert "holds embedded images; make an index of them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--by", "gem"], "holds cls, --by gem needs cls+gem"),
        (["--by", "both"], "holds cls, --by both needs cls+gem"),
        (["--split", "test", "--batch", "2"], "is embedded already, by m; leave out --split and --batch"),
        (["--precision", "bf16"], "leave out --precision"),
        (["--device", "cpu", "--workers", "0"], "leave out --workers and --device"),
        (["--heads", "2"], "leave out --heads"),
    ],
)
def test_what_a_pool_cannot_do_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    make_pool(tmp_path / "pool", noise(6), model="m")
    assert run(["search", "build", "--data", str(tmp_path / "pool"), "--out", str(tmp_path / "i"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "i").exists()


def test_a_pool_that_is_refused_leaves_nothing_and_the_next_one_is_taken_in(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "i", noise(6))
    make_pool(tmp_path / "bad", noise(5), model="other", weights="v", data="/second")
    make_pool(tmp_path / "good", noise(7), model="m", data="/second")
    words = ["search", "add", str(tmp_path / "i"), "--data"]
    assert run([*words, str(tmp_path / "bad")]) == 2
    assert "was embedded by other (cls), the index by m (cls)" in capsys.readouterr().err
    assert not (tmp_path / "i/pool-1").exists()
    assert run([*words, str(tmp_path / "good"), "--split", "test", "--model", "m"]) == 2
    assert "is embedded already, by m; leave out --model and --split" in capsys.readouterr().err
    assert run([*words, str(tmp_path / "good")]) == 0
    assert len(Index(tmp_path / "i")) == 13


def test_a_library_that_is_missing_is_said_before_anything_is_embedded(
    tmp_path: Path, pictures: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    words = ["--model", model, "--data", str(pictures), "--out", str(tmp_path / "i"), "--kind", "faiss"]
    assert run(["search", "build", *words]) == 2
    assert "pip install 'dinokit[search]'" in capsys.readouterr().err
    assert not (tmp_path / "i").exists()


def test_an_index_of_faiss_says_what_share_it_finds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recall = 100 * made(tmp_path / "i", noise(40), kind="faiss").about.engine.recall
    capsys.readouterr()
    search(tmp_path / "i")
    assert f"faiss, which finds {recall:.1f} % of the 10 nearest" in capsys.readouterr().err
