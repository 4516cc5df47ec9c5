"""Pages of the site that are read off the code while it is built, so that they cannot say something else.

MkDocs calls `on_files` (mkdocs.yml names this file under `hooks`). A page is a function that returns Markdown, a line
of PAGES; nothing is written to the disk. `python docs/generated.py NAME` prints one.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from dinokit import cli, recipes
from dinokit.checkpoints.hub import RELEASES
from dinokit.commands import curate, evaluate, finetune, look, predict
from dinokit.commands.outline import commands, outline
from dinokit.config import Setting, explained
from dinokit.evaluation import base as evaluations
from dinokit.health import verdict
from dinokit.models.architecture import ARCHITECTURES
from dinokit.visuals import glossary

SHOWN = ("demo", "small-cpu", "dinov2-vits14", "dinov3-vitl16")  # recipes whose values stand side by side
EXAMPLE: Mapping[str, float] = {"lr": 1e-3, "loss": 9.5, "momentum": 0.99, "step": 1200}  # of a line of metrics.jsonl


def settings() -> str:
    """Every setting of every verb, with its meaning and its value."""
    parts = ["# Every setting", SETTINGS, "## pretrain, distill, plan", _of_recipes()]
    for task in evaluations.names():
        parts += [f"## evaluate {task}", _table(_told(evaluate.explained((task,))[1]))]
    for kind in look.KINDS:
        parts += [f"## look {kind}", _table(_told((look.explained((kind,)) or ("", None))[1]))]
    for step in curate.STEPS:
        parts += [f"## curate {step}", _table(_told((curate.explained((step,)) or ("", None))[1]))]
    parts += ["## finetune", _table(_told(finetune.explained(("finetune",))[1]))]
    few = predict.explained(("--train-on",))
    parts += ["## predict --train-on", _table(_told(few[1] if few else None))]
    return "\n\n".join(parts)


SETTINGS = (
    "Read off the dataclasses of the code. On the command line a setting is `--KEY VALUE`, a list `'[0.4, 1.0]'`, "
    "nothing `null`; in Python a keyword, or `settings={'optim.lr.peak': 1e-3}`. `dinokit pretrain RECIPE --help` "
    "says the same of one recipe. A dash: the recipe has no such part."
)


def _of_recipes() -> str:
    found = {name: {each.path: each for each in _told(recipes.find(name))} for name in recipes.names()}
    every: dict[str, Setting] = {}
    for name in (*SHOWN, *found):
        every |= {path: each for path, each in found[name].items() if path not in every}
    groups: dict[str, list[str]] = defaultdict(list)
    for path in every:
        groups[".".join(path.split(".")[:-1]) or "the run"].append(path)
    head = f"| key | meaning | {' | '.join(f'`{name}`' for name in SHOWN)} |\n|---|---|{'---|' * len(SHOWN)}\n"
    parts = []
    for group, paths in groups.items():
        rows = [_row(every[path], [found[name].get(path) for name in SHOWN]) for path in paths]
        parts.append(f"### {group}\n\n{head}" + "\n".join(rows))
    return "\n\n".join(parts)


def _row(setting: Setting, values: Iterable[Setting | None]) -> str:
    cells = [_code(value.value) if value else "-" for value in values]
    return f"| `{setting.path}` | {_meaning(setting)} | {' | '.join(cells)} |"


def _meaning(setting: Setting) -> str:
    choices = " or ".join(f"`{each}`" for each in setting.choices)
    return _cell("; ".join(filter(None, [choices, setting.meaning])))


def _table(found: Iterable[Setting]) -> str:
    rows = [f"| `{each.path}` | {_meaning(each)} | {_code(each.value)} |" for each in found if each.path != "data"]
    return "| key | meaning | default |\n|---|---|---|\n" + "\n".join(rows) if rows else "No settings."


def _told(config: Any) -> Iterator[Setting]:
    return explained(config, hidden=cli.HALVES) if config is not None else iter(())


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _code(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return f"`{text if len(text) <= 80 else text[:77] + '...'}`" if text else ""


def verbs() -> str:
    """What every verb takes, as `--help` says it."""
    parts = [
        "# Every command",
        "What `dinokit COMMAND --help` prints, without the settings, which are [here](settings.md).",
    ]
    for name, summary in commands().items():
        module = outline(name)
        functions = [getattr(module, name), *getattr(module, "INNER", {}).values()]
        parts.append(f"## {name}\n\n{summary[0].upper()}{summary[1:]}.")
        for function in functions:
            parts.append("```text\n" + "\n".join(cli._help(function)).strip() + "\n```")
    return "\n\n".join(parts)


def health() -> str:
    """What each verdict of a run means, and each number that it is made of."""
    rows = []
    for failure in verdict.examples():
        line = defaultdict(lambda: 0.5, EXAMPLE)
        patience = f"{failure.patience} readings" if failure.patience > 1 else "one reading"
        when = "at any step" if failure.early else "after the warm-up"
        signs = ", ".join(f"`{name}`" for name in failure.names)
        rows.append(
            f"| **{failure.word}** ({_cell(failure.cause)}) | {_cell(_blank(failure.says(line)))} | "
            f"{_cell(failure.advice)} | {signs}; {patience}, {when} |"
        )
    words = "| verdict | what the line says, N a number | what to do | read off |\n|---|---|---|---|\n" + "\n".join(
        rows
    )
    terms = ["| in metrics.jsonl | title | meaning |", "|---|---|---|"]
    terms += [f"| `{_cell(_plain(key))}` | {title} | {_cell(text)} |" for key, (title, text) in glossary.TERMS.items()]
    concepts = [f"**{name}.** {text}" for name, text in glossary.CONCEPTS]
    return "\n\n".join(
        ["# What health says", HEALTH, words, "## The numbers of a run", "\n".join(terms), "## Words", *concepts]
    )


HEALTH = (
    "While a run trains it looks at a few images and says a word for what it finds, with the numbers and what to "
    "do. `healthy`: none of the signs below holds. `starting`: the learning rate is still rising, and signs that "
    f"are normal at the start do not count yet (until {verdict.AFTER_WARMUP} times the warm-up and "
    f"{verdict.AND_STEPS} steps). A failure is said once its sign has held on so many readings in a row, with the "
    "step since when."
)


def _blank(text: str) -> str:
    """Write N for the numbers of an example."""
    return re.sub(r"(?<![\w.])\d[\d,]*(\.\d+)?(e[-+]\d+)?", "N", text)


def _plain(pattern: str) -> str:
    """Write a pattern of names as a person would."""
    return re.sub(r"\[\^/\]\+|(?<=/)\.[*+]", "NAME", pattern).replace(".*", "...")


def weights() -> str:
    """Published weights by name, with their licences."""
    rows = [
        f"| `{name}` | `{release.architecture}` | {release.licence} | {_place(release.repository)} | `{release.file}` |"
        for name, release in RELEASES.items()
    ]
    table = "| name | architecture | licence of the weights | hub | official file |\n|---|---|---|---|---|\n"
    columns = ("kind", "patch_size", "dim", "depth", "heads", "registers", "position")
    sizes = [f"| `{n}` | {' | '.join(str(getattr(c, k, '-')) for k in columns)} |" for n, c in ARCHITECTURES.items()]
    head = f"| architecture | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}\n"
    return "\n\n".join(
        ["# Weights and their licences", WEIGHTS, table + "\n".join(rows), "## Architectures", head + "\n".join(sizes)]
    )


WEIGHTS = (
    "Read off `dinokit/checkpoints/hub.py`. dinokit holds no weights; it finds a file by its name in the folder "
    "`DINOKIT_WEIGHTS`, then where torch.hub put it, then on the Hugging Face hub. The DINOv3 License is Meta's "
    "own: read what it asks of you and of models made with those weights before you build on them. What you train "
    "from random numbers is yours, under no licence of ours; for what starts from other weights, or is distilled "
    "from them, read theirs. Peers (`timm/NAME`, `hf/NAME`, `open_clip/NAME`) have the licence that their own "
    "page says."
)


def _place(repository: str | None) -> str:
    return f"[{repository}](https://huggingface.co/{repository})" if repository else "-"


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/settings.md": settings,
    "reference/commands.md": verbs,
    "reference/health.md": health,
    "reference/weights.md": weights,
}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those that MkDocs has found."""
    from mkdocs.structure.files import File

    for place, page in PAGES.items():
        files.append(File.generated(config, place, content=page()))
    return files


if __name__ == "__main__":
    print(next(page for place, page in PAGES.items() if place.endswith(f"{sys.argv[1]}.md"))())
