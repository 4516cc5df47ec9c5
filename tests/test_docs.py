"""README and docs/ as a reader would type them: every block is run, or its words are checked (tests/snippets.py)."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy
import pytest
import yaml
from PIL import Image

from dinokit import cli, recipes
from dinokit.commands.outline import commands as verbs
from dinokit.commands.outline import outline
from dinokit.config import flat, to_plain
from tests.conftest import few_photos
from tests.snippets import LANGUAGES, REASONS, ROOT, Block, blocks, commands, of_dinokit, pages

VERBS = {*verbs(), "help"}
PAGES = [str(path.relative_to(ROOT)) for path in pages()]
TINY = ("--data.batch_size", "4", "--workers", "0", "--processes", "1", "--tensorboard", "false")
SHORTER = {  # what else a command is given here, by its first words
    "pretrain": ("--steps", "2", *TINY),
    "pretrain small-cpu": ("--steps", "2", "--data.batch_size", "16", *TINY[2:]),
    "adapt": ("--steps", "2", "--heads", "2", *TINY),
    "distill": ("--steps", "2", *TINY),
    **{f"evaluate {task}": ("--iterations", "2") for task in ("segmentation", "depth", "linear")},
    "evaluate foreground": ("--size", "32"),
    "evaluate attentive": ("--passes", "1"),
    "finetune": ("--iterations", "2", "--frozen.iterations", "2"),
    "look": ("--size", "32"),
}


def every(*, run: bool | None = None) -> list[Block]:
    """Return the blocks of all pages that are code: those that are run, those that are not, or both."""
    found = [block for page in pages() for block in blocks(page) if block.language in LANGUAGES]
    return [block for block in found if run is None or run == (not block.reason)]


def test_what_is_not_run_says_one_of_the_known_reasons() -> None:
    assert not [block.place for block in every() if block.reason and block.reason not in REASONS]
    assert len(every(run=True)) > len(every(run=False))


def test_every_fence_says_its_language() -> None:
    """A block without one would be passed over in silence."""
    known = {*LANGUAGES, "text"}
    assert not [each.place for page in pages() for each in blocks(page) if each.language not in known]


@pytest.mark.parametrize("page", PAGES)
def test_commands_options_and_settings_are_there(page: str) -> None:
    """Also of blocks that are not run."""
    wrong = []
    for block in blocks(ROOT / page):
        for words in commands(block) if block.language in ("bash", "sh") else ():
            given = of_dinokit([word for word in words if word != "--nnodes"])
            try:
                check(given if given is not None else after_torchrun(words))
            except Exception as error:
                wrong.append(f"{block.place} {' '.join(words)}: {error}")
        if block.language == "python":
            compile(block.text, block.place, "exec")
    assert not wrong


def after_torchrun(words: list[str]) -> list[str] | None:
    """Return what torchrun, docker or srun would start."""
    for module in ("dinokit", "dinokit:cuda"):
        if module in words[1:] and words[0] in ("torchrun", "docker", "srun") and "build" not in words:
            return words[words.index(module) + 1 :]
    return None


def check(words: list[str] | None) -> None:
    """Bind the words of a command as the shell would, and look its settings up."""
    if words is None or not words or words[0].startswith("-"):
        return
    assert words[0] in VERBS, f"no command {words[0]}"
    module = outline(words[0])
    function, rest = cli._chosen(module, words)
    if "--help" in rest:
        return
    bound = cli.arguments(function, rest)
    settings = bound.get("settings", {})
    if settings and words[0] in ("pretrain", "plan") and not str(bound["recipe"]).endswith(".yaml"):
        known(settings, bound["recipe"])
    elif settings and words[0] in ("evaluate", "look", "curate"):
        _, config = cli._imported(words[0]).explained((rest[0],))
        unknown = set(settings) - set(flat(to_plain(config))) - {"at"}
        assert not unknown, f"no settings {unknown}"


def known(settings: dict[str, object], recipe: str) -> None:
    """Refuse dotted keys that a recipe does not have; of what it leaves out, only the start must be there."""
    config = recipes.find(recipe)
    keys = {*flat(to_plain(config.experiment)), *flat(to_plain(config.runtime))}
    starts = {key.rpartition(".")[0] for key in keys} | {key.rsplit(".", 2)[0] for key in keys} | keys
    for key in settings:
        parts = key.removeprefix("experiment.").removeprefix("runtime.")
        assert parts in starts or parts.split(".")[0] in ("stages", "anchor"), f"no setting {key} in {recipe}"


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    linked = [each for each in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text) if "://" not in each]
    generated = {ROOT / "docs" / "reference" / f"{name}.md" for name in ("settings", "commands", "health", "weights")}
    places = [((ROOT / page).parent / each).resolve() for each in linked]
    assert not [each for each in places if not each.exists() and each not in generated]


def test_commands_within_sentences_are_there() -> None:
    """`dinokit VERB ...` between two ticks."""
    said = [
        (page, word)
        for page in PAGES
        for word in re.findall(r"`(?:python -m )?dinokit ([a-z]+)\b", (ROOT / page).read_text(encoding="utf-8"))
    ]
    assert len(said) > 20
    assert not [(page, word) for page, word in said if word not in VERBS]


@pytest.fixture(scope="session")
def run_of_theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What page after page calls runs/mine: a run of two steps on photos, and two of the next stage."""
    place = tmp_path_factory.mktemp("documented")
    few_photos(place)
    words = ["pretrain", "small-cpu", "--data", str(place), "--out", str(place / "run")]
    assert cli.run([*words, *SHORTER["pretrain small-cpu"], "--stages.anchor.steps", "2"]) == 0
    return place / "run"


@pytest.fixture
def place(page: str, tmp_path: Path, run_of_theirs: Path) -> Path:
    """A folder with all that pages speak of, tiny."""
    draw = numpy.random.default_rng(0)

    def picture(file: str, size: tuple[int, ...] = (24, 32, 3)) -> None:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, size, dtype=numpy.uint8)).save(tmp_path / file)

    (tmp_path / "photos").mkdir()
    few_photos(tmp_path / "photos")
    for split, count in (("train", 6), ("val", 4)):
        for index in range(count):
            for name in ("cat", "dog"):
                picture(f"labelled/{split}/{name}/{index}.png")
                picture(f"gray/{split}/{name}/{index}.png", (28, 28))
            picture(f"pairs/{split}/images/{index}.png")
            (tmp_path / f"pairs/{split}/masks").mkdir(exist_ok=True)
            halves = numpy.repeat(numpy.uint8([[0, 1]]), 24, 0).repeat(16, 1)
            Image.fromarray(halves).save(tmp_path / f"pairs/{split}/masks/{index}.png")
            picture(f"depths/{split}/images/{index}.png")
            (tmp_path / f"depths/{split}/depth").mkdir(parents=True, exist_ok=True)
            numpy.save(tmp_path / f"depths/{split}/depth/{index}.npy", draw.uniform(1, 5, (24, 32)).astype("float32"))
    for name in ("a.jpg", "b.jpg", "cat.jpg", "boxes/1.png", "boxes/2.png"):
        picture(name)
    (tmp_path / "boxes" / "boxes.csv").write_text("path,x0,y0,x1,y1\n1.png,2,2,20,20\n2.png,4,4,30,20\n")
    (tmp_path / "table.csv").write_text("path\nphotos/0.png\nphotos/1.png\n")
    pair = {"image_a": "a.jpg", "image_b": "b.jpg", "points_a": [[3, 4], [20, 9]], "points_b": [[5, 4], [18, 9]]}
    (tmp_path / "matches.jsonl").write_text(json.dumps(pair) + "\n")
    frames = [Image.fromarray(draw.integers(0, 256, (32, 32, 3), dtype=numpy.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    if "--out runs/mine" not in (ROOT / page).read_text(encoding="utf-8"):
        shutil.copytree(run_of_theirs, tmp_path / "runs" / "mine")
    return tmp_path


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in a folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_says_runs(page: str, place: Path) -> None:
    names: dict[str, object] = {}
    with inside(place):
        for block in blocks(ROOT / page):
            if block.reason:
                continue
            if block.language in ("bash", "sh"):
                for words in commands(block):
                    run(words, block)
            elif block.language == "python":
                exec(compile(smaller(block.text), block.place, "exec"), names)
            elif block.language == "yaml":
                (place / block.text.split("\n")[0].removeprefix("# ").partition(":")[0]).write_text(block.text)
                assert yaml.safe_load(block.text)


def run(words: list[str], block: Block) -> None:
    """Run a command: ours in this process, which has imported all, others by the shell."""
    given = of_dinokit(words)
    if given is None:
        subprocess.run(words, check=True)
        return
    given = ["gray" if word == "demo:fashion" else word for word in given]  # which has 12,000 images
    if "--train-masks" in given:
        given += ["--size", "32"]
    more = next((SHORTER[key] for key in (" ".join(given[:2]), given[0]) if key in SHORTER), ())
    if given[:2] == ["pretrain", "small-cpu"] and not {"--stage", "--stages.anchor"} & {*given}:
        more += ("--stages.anchor.steps", "2")
    if "--eval.tasks" in given:  # what is measured by a process of its own takes its time
        more += ("--eval.tasks", "knn", "--eval.data", "labelled")
    for name, value in zip(more[::2], more[1::2]):
        if "--help" in given:
            break
        if name in given:
            given[given.index(name) + 1] = value
        else:
            given += [name, value]
    assert cli.run(given) == 0, f"{block.place}: {' '.join(words)}"


def smaller(text: str) -> str:
    """Give a training in Python two steps."""
    return re.sub(r"steps=\d+", "steps=2, processes=1, workers=0", text)
