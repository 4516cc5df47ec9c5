"""The detector on frozen features: a neck, proposals, and a decoder that refines them.

    neck        1 x 1 convolution and group norm to `dim`, then layers of self-attention (post-norm, as DETR's encoder)
    proposals   on maps of 1/2 (if `finer`), 1, 2 and 4 times the stride every place proposes a box from a square of 50,
                100, 200, 400 pixels about it, the finest first; the likeliest become the references of the queries
    queries     learnt content (mixed selection, arXiv:2203.03605); their position is their first reference
    decoder     layers of self-attention, attention to the map (attention.py) and a network, all pre-norm; each has its
                own heads for classes and deltas; the next layer starts where the last one ended
    look forward twice (arXiv:2203.03605): what a layer says is judged from the last reference with its gradient, but
                references carry none into the layers

Queries for one-to-many matching come behind the others, in training only; the groups do not see each other.
Source: Plain-DETR (arXiv:2308.01904), DINOv3 (arXiv:2508.10104, appendix D.9).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from dinokit.core.messages import UserError
from dinokit.core.numbers import at_least
from dinokit.core.seed import derived
from dinokit.dense.detr import boxes as box
from dinokit.dense.detr.layers import Encoding, Heads, Layer, rarely
from dinokit.dense.detr.levels import by_fours, doubled, halved, squares
from dinokit.dense.detr.matching import Answers
from dinokit.dense.detr.positions import of_boxes, of_map

GROUPS = 32  # of the neck's norm
SQUARE = 50.0  # pixels, of the finest proposals
COARSER = 2  # levels above the stride


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of a detector."""

    width: int = at_least(1)  # numbers per place of the features
    classes: int = at_least(1)
    stride: int = at_least(1)  # pixels from one place to the next
    dim: int = at_least(GROUPS)
    heads: int = at_least(1, 8)
    hidden: int = at_least(1)  # of the networks behind attention
    box_hidden: int = at_least(1)  # of the networks from boxes to attention
    encoder: int = at_least(0)  # layers
    decoder: int = at_least(1)  # layers
    finer: bool  # proposals at half the stride, too
    queries: int = at_least(1)
    many: int = at_least(0)  # further queries in training, several of which answer for an object

    def __post_init__(self) -> None:
        if self.dim % GROUPS or self.dim % self.heads:
            raise UserError(f"expected a dim that {GROUPS} and {self.heads} heads divide, got {self.dim}")


@dataclass(frozen=True)
class Maps:
    """What a detector sees of a batch of images of any sizes; the first place of a map begins at pixel 0, 0."""

    maps: Sequence[Float[Tensor, "feature _ _"]]
    sizes: Float[Tensor, "batch 2"]  # width and height in pixels


class Detector(nn.Module):
    """Maps of features -> what every layer says of every query."""

    def __init__(self, config: Config, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived(seed))
            self._build(config)

    def _build(self, config: Config) -> None:
        dim, sizes = config.dim, (config.dim, config.heads, config.hidden)
        self.project = nn.Sequential(nn.Conv2d(config.width, dim, 1), nn.GroupNorm(GROUPS, dim))
        self.encoder = nn.ModuleList(Encoding(*sizes) for _ in range(config.encoder))
        self.finer = nn.ConvTranspose2d(dim, dim, 2, stride=2) if config.finer else None
        self.coarser = nn.ModuleList(nn.Conv2d(dim, dim, 2, stride=2) for _ in range(COARSER))
        self.proposed = nn.Sequential(nn.Linear(dim, dim), nn.LayerNorm(dim))
        self.content = nn.Embedding(config.queries + config.many, dim)
        self.position = nn.Sequential(nn.Linear(2 * dim, dim), nn.LayerNorm(dim))
        self.decoder = nn.ModuleList(Layer(*sizes, config.box_hidden) for _ in range(config.decoder))
        self.last = nn.LayerNorm(dim)  # of what any layer says; what goes on to the next one is not normed
        self.heads = nn.ModuleList(Heads(dim, config.classes) for _ in range(config.decoder))
        self.thing = Heads(dim, 1)  # of proposals

    def forward(self, seen: Maps) -> tuple[Answers, Answers]:
        """Answer for a batch: return what the places propose, whether something is there, and what each layer says.

        Returns:
            Answers [1, image, place] and [layer, image, query].
        """
        sizes = seen.sizes
        tokens, places, hidden = self._seen(seen.maps)
        proposals = self._proposals(tokens, hidden, sizes)
        count = self.config.queries + (self.config.many if self.training else 0)
        best = proposals.logits[..., 0].topk(min(count, proposals.logits.shape[1]), dim=1).indices  # [batch, query]
        reference = proposals.boxes.gather(1, best[..., None].expand(-1, -1, 4)).detach()
        queries = self.content.weight[: best.shape[1]].expand(len(sizes), -1, -1)
        position = self.position(of_boxes(reference, sizes[:, None], 2 * self.config.dim))
        first = min(best.shape[1], self.config.queries)
        groups = [one for one in (first, best.shape[1] - first) if one]
        said, judged = [], reference
        for layer, heads in zip(self.decoder, self.heads):
            queries = layer(queries, position, reference, tokens, places, self.config.stride, hidden, groups)
            logits, deltas = heads(self.last(queries))
            found = box.inside(box.moved(judged, deltas), sizes[:, None])
            said.append((logits, judged.detach(), deltas, found))
            judged = box.inside(box.moved(reference, deltas), sizes[:, None])
            reference = judged.detach()
        return proposals.of(None), Answers(*map(torch.stack, zip(*said, strict=True)))

    def _seen(
        self, maps: Sequence[Float[Tensor, "feature _ _"]]
    ) -> tuple[
        Float[Tensor, "batch rows columns dim"],
        Float[Tensor, "some rows columns dim"],
        Bool[Tensor, "batch rows columns"] | None,
    ]:
        """Bring maps to one width and size, and let their places see each other.

        Returns:
            Tokens, what says their position (once if all images have one size), and what is True where there is no
            image.
        """
        projected = [self._projected(each) for each in maps]
        rows, columns = (max(each.shape[axis] for each in projected) for axis in (1, 2))
        hidden = torch.ones(len(maps), rows, columns, dtype=torch.bool, device=maps[0].device)
        where = dict[tuple[int, ...], Tensor]()
        for image, each in enumerate(projected):
            height, width = each.shape[1:]
            hidden[image, :height, :width] = False
            if (height, width) not in where:
                own = of_map(height, width, self.config.dim, device=each.device)
                where[height, width] = _padded(own, rows, columns)
        tokens = torch.stack([_padded(each.permute(1, 2, 0), rows, columns) for each in projected])
        alike = projected[:1] if len(where) == 1 else projected
        places = torch.stack([where[tuple(each.shape[1:])] for each in alike])
        padding = set(where) != {(rows, columns)}  # shapes: a value is waited for
        some = hidden if padding else None
        seen = None if some is None else ~hidden.flatten(1)[:, None, None]  # [batch, 1, 1, place]
        flat, flat_places = tokens.flatten(1, 2), places.flatten(1, 2)
        for layer in self.encoder:
            flat = layer(flat, flat_places, seen)
        tokens = torch.unflatten(flat, 1, (rows, columns))
        return tokens, places, some

    def _projected(self, map: Float[Tensor, "feature rows columns"]) -> Float[Tensor, "dim rows columns"]:
        """Bring a map to the width of the neck: by a product, for which a convolution of oneDNN takes 1.3 times."""
        layer = self.project[0]
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        flat = torch.addmm(layer.bias[:, None], layer.weight.flatten(1), map.flatten(1))
        normed: Tensor = self.project[1](torch.unflatten(flat, 1, map.shape[1:])[None])
        return normed[0]

    def _proposals(
        self,
        tokens: Float[Tensor, "batch rows columns dim"],
        hidden: Bool[Tensor, "batch rows columns"] | None,
        sizes: Float[Tensor, "batch 2"],
    ) -> Answers:
        """Return a box and logits of every place of all levels; what is padding is never chosen."""
        level = tokens if hidden is None else tokens.masked_fill(hidden[..., None], 0)
        levels, fields, about = zip(*self._levels(level), strict=True)
        rows = self.proposed[1](torch.cat(levels, dim=1))
        thing = self.thing.classes
        logits = (rows @ thing.weight[0] + thing.bias)[..., None]  # a vector: the gradient of a matrix is a product
        deltas = rarely(self.thing.deltas, rows)
        around = torch.cat(about).to(tokens).expand(len(tokens), -1, -1)  # [batch, proposal, 4]
        ends = torch.cat(fields).to(tokens)[:, 2:]  # [proposal, 2]
        outside = (ends > sizes[:, None]).any(dim=-1)  # also in part, as places that the image alone would not have
        logits = logits.masked_fill(outside[..., None], torch.finfo(logits.dtype).min / 4)
        return Answers(logits, around, deltas, box.inside(box.moved(around, deltas), sizes[:, None]))

    def _levels(
        self, level: Float[Tensor, "batch rows columns dim"]
    ) -> Iterator[tuple[Float[Tensor, "batch place dim"], Float[Tensor, "place 4"], Float[Tensor, "place 4"]]]:
        """Yield what is to be normed of every place, its field and the square about it, of the finest level first."""
        linear, (rows, columns), stride, side = self.proposed[0], level.shape[1:3], float(self.config.stride), SQUARE
        assert isinstance(linear, nn.Linear)
        if self.finer is not None:
            fields, about = squares(2 * rows, 2 * columns, stride / 2, side)
            yield doubled(self.finer, linear, level), by_fours(fields, columns), by_fours(about, columns)
            side *= 2
        yield linear(level).flatten(1, 2), *squares(rows, columns, stride, side)
        for step in self.coarser:
            if min(rows, columns) == 1:
                return
            assert isinstance(step, nn.Conv2d)
            level = halved(step, level)
            (rows, columns), stride, side = level.shape[1:3], 2 * stride, 2 * side
            yield linear(level).flatten(1, 2), *squares(rows, columns, stride, side)


def _padded(values: Float[Tensor, "_ _ dim"], rows: int, columns: int) -> Float[Tensor, "{rows} {columns} dim"]:
    """Append zeros below and to the right, if anything is lacking."""
    height, width = values.shape[:2]
    return values if (height, width) == (rows, columns) else F.pad(values, (0, 0, 0, columns - width, 0, rows - height))
