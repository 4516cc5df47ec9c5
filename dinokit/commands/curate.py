"""`dinokit curate`: from a raw pile to a balanced training set: dedup, cluster, sample, retrieve, auto, report"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dinokit import config as configuration
from dinokit.commands import curating
from dinokit.config import NO_SETTINGS, Settings
from dinokit.core.files import check_result, only_owner
from dinokit.core.messages import RunError, UserError, info, is_main, reason, unknown_name
from dinokit.curation import cluster, dedup, retrieve, sample
from dinokit.curation.memory import in_bytes
from dinokit.curation.pool import Pool
from dinokit.run import ranks
from dinokit.sources import location
from dinokit.sources.rows import PARQUET
from dinokit.visuals.curation import FILE, Config, write_page


@dataclass(frozen=True)
class Job:
    """What a step is asked to do; what stands in `STEPS` and `NEEDS` of it holds."""

    data: str
    out: Path
    config: Any
    device: torch.device
    after: Path | str | None = None
    against: Path | str | None = None
    queries: Path | str | None = None
    clusters: Path | str | None = None
    model: Path | str | None = None
    heads: int | None = None
    memory: str | None = None

    def dedup(self) -> Any:
        """Find duplicates."""
        pool, against = Pool(self.data), None if self.against is None else Pool(self.against)
        ask = curating.model_of(pool, device=self.device)
        return dedup.run(pool, self.config, self.out, against=against, embed=ask, device=self.device)

    def cluster(self) -> Any:
        """Cluster, and say how many clusters there are."""
        pool = Pool(self.data)
        given: dict[str, Any] = {"rows": self._stay(pool), "memory": self._bytes, "device": self.device}
        found = cluster.run(pool, self.config, self.out, **given)
        info(f"clusters of each level: {', '.join(f'{count:,}' for count in found['clusters'])} · {self.out}")
        return found

    def sample(self) -> Any:
        """Choose a balanced set."""
        check_result(self.out)
        count = sample.run(Path(self.data), self.config, self.out) if is_main() else 0
        info(f"{count:,} images · {self.out}")
        return count

    def retrieve(self) -> Any:
        """Find what resembles a set."""
        assert self.queries is not None
        pool = Pool(self.data)
        given: dict[str, Any] = {"queries": Pool(self.queries), "rows": self._stay(pool), "device": self.device}
        clusters = None if self.clusters is None else Path(self.clusters)
        return retrieve.run(pool, self.config, self.out, clusters=clusters, **given)

    def auto(self) -> Any:
        """Do all of it."""
        assert self.model is not None
        given: dict[str, Any] = {"model": str(self.model), "heads": self.heads, "device": self.device}
        given |= {"memory": self._bytes}
        return curating.auto(self.data, self.config, self.out, **given)

    def report(self) -> Any:
        """Show what became of every image."""
        if is_main():
            info(f"report {write_page(Path(self.data), self.config, self.out)}")
        return self.out

    @property
    def _bytes(self) -> int | None:
        return None if self.memory is None else in_bytes(self.memory)

    def _stay(self, pool: Pool) -> Any:
        return None if self.after is None else dedup.kept(Path(self.after), pool)


# of each step its settings, and the options it takes beside those that all take
STEPS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "dedup": (dedup.Config, ("against",)),
    "cluster": (cluster.Config, ("after", "memory")),
    "sample": (sample.Config, ()),
    "retrieve": (retrieve.Config, ("after", "queries", "clusters")),
    "auto": (curating.Config, ("against", "model", "heads", "memory")),
    "report": (Config, ()),
}
REQUIRED = ("size",)  # settings without a default, of the steps that have them
# options that a step cannot do without
NEEDS = {
    "retrieve": ("queries", "an embedded set whose like is to be found"),
    "auto": ("model", "whose features tell images apart"),
}


def curate(
    step: str,
    data: str,
    *,
    out: Path | None = None,
    after: Path | None = None,
    against: str | None = None,
    queries: Path | None = None,
    clusters: Path | None = None,
    model: str | None = None,
    heads: int | None = None,
    memory: str | None = None,
    device: str = "auto",
    processes: int | None = None,
    settings: Settings = NO_SETTINGS,
    **named: Any,
) -> Any:
    """Make a training set of a pile of images, step by step or, by auto, in one go.

    The same command again goes on after a stop. What dedup keeps and retrieve and sample choose is a selection, which
    --data of every command takes: OUT/selection.parquet, of sample OUT itself. Auto makes one of all.

    Args:
        step: dedup, cluster, sample, retrieve, auto or report; `dinokit curate STEP --help` lists a step's settings.
        data: dedup, cluster, retrieve: a folder that `dinokit embed` wrote; sample: one that cluster wrote; auto:
            images, anything that `pretrain` takes; report: what auto wrote, the folder of a step, or one that holds
            the folders of several.
        out: the folder to write; of sample a file .parquet, of report a page, report.html in DATA if left out.
        after: cluster, retrieve: a folder that dedup wrote; only the images that stay are looked at.
        against: dedup: an embedded set; what resembles it, such as the images of an evaluation, is dropped, too. auto:
            a source of such images.
        queries: retrieve: an embedded set whose like is to be found.
        clusters: retrieve by cluster: a folder that cluster wrote.
        model: auto: whose features tell images apart, as `dinokit embed` takes it.
        heads: auto: of attention, for weights that do not say it.
        memory: cluster, auto: what each process may hold while it clusters, such as 2GiB.
        device: auto, cpu, cuda or mps.
        processes: that share the work; left out, one per GPU of this machine.
    """
    options: dict[str, Any] = {"after": after, "against": against, "queries": queries, "clusters": clusters}
    options |= {"model": model, "heads": heads, "memory": memory}
    given = {name: value for name, value in options.items() if value is not None}
    if out is None and step in STEPS and step != "report":
        raise UserError(f"curate {step} needs --out: what it writes")
    values, out = {**settings, **named}, Path(data) / FILE if out is None else Path(out)
    alone = step in ("sample", "report")
    config = _settings(step, out, given, values)
    words = ranks.words("curate", step, str(data), out=out, device=device, **given, settings=values)
    with ranks.sharing(words, processes=1 if alone and processes is None else processes, device=device) as where:
        job = Job(str(data), out, config, where, **given)
        with only_owner(out) if is_main() and not alone else nullcontext():
            try:
                return getattr(job, step)()
            except OSError as error:
                said = f"{reason(error)}: {error.filename or out}"
                raise RunError(f"{said}; what was computed stays, the same command goes on") from error


def explained(words: Sequence[str]) -> tuple[str, Any] | None:
    """Return the settings of the step that help is about."""
    return (f"curate {words[0]}", _default(STEPS[words[0]][0])) if words[0] in STEPS else None


def _settings(step: str, out: Path, given: Mapping[str, Any], values: Settings) -> Any:
    """Return the settings of a step, before any work.

    Raises:
        UserError: if the step or a setting is unknown, or they do not go together with the options that are given.
    """
    if step not in STEPS:
        raise unknown_name("step", step, STEPS)
    kind, takes = STEPS[step]
    for name in given:
        if name not in takes:
            takers = " and ".join(each for each, (_, known) in STEPS.items() if name in known)
            raise UserError(f"curate {step} takes no --{name}; it is for {takers}")
    needed, meaning = NEEDS.get(step, (None, ""))
    if needed and needed not in given:
        raise UserError(f"curate {step} needs --{needed}: {meaning}")
    for name in REQUIRED:
        if name in kind.__dataclass_fields__ and name not in values:
            raise UserError(f"curate {step} needs --{name}: how many images")
    if step == "auto":
        seeds = values.get("seeds", ())
        values = {**values, "seeds": [seeds] if isinstance(seeds, str) else seeds}
        values |= {"against": str(given["against"])} if "against" in given else {}
    config = configuration.override(_default(kind), values)
    _check_together(step, config, out, given, values)
    return config


def _check_together(step: str, config: Any, out: Path, given: Mapping[str, Any], values: Settings) -> None:
    """Refuse what would be passed over in silence."""
    if "memory" in given:
        in_bytes(given["memory"])
    if step == "sample" and location.suffix(str(out)) != PARQUET:
        raise UserError(f"curate sample writes one file: expected --out FILE.parquet, got {out}")
    if step == "retrieve" and config.by == "cluster" and "clusters" not in given:
        raise UserError("curate retrieve --by cluster needs --clusters: a folder that curate cluster wrote")
    for names, needs in _idle(step, config, given):
        idle = [name for name in names if name in values or name in given]
        if idle:
            raise UserError(f"--{idle[0]} would do nothing; {needs}, or leave it out")


def _idle(step: str, config: Any, given: Mapping[str, Any]) -> Iterator[tuple[Sequence[str], str]]:
    """Yield options that do nothing as things are, and what they would need."""
    if step == "dedup" and "against" not in given:
        yield ("reach", "against_threshold"), "give --against, an embedded set, too"
    if step == "retrieve" and config.by == "sample":
        yield ("clusters", "hits", "per_cluster", "cap"), "give --by cluster, too"
    if step == "retrieve" and config.by == "cluster":
        yield ("neighbours", "unique", "exact"), "retrieve by sample"
    if step == "auto" and not config.seeds:
        yield ("neighbours", "retrieved", "homogeneous"), "give --seeds, too"
    if step == "cluster" and not config.resample:
        yield ("pick",), "give --resample at least 1"
    if step == "auto" and config.seeds and not config.retrieved:
        yield ("neighbours",), "give --retrieved above 0"


def _default(kind: Any) -> Any:
    return kind(**{name: 1 for name in REQUIRED if name in kind.__dataclass_fields__})
