"""What a detector is, what it sees and how it learns, as published and for one machine.

    small     100 queries, 512 pixels, features of every image and its mirror kept on disk, focal loss; minutes to hours
    few       for some images of one's own: `small` with 20 queries, smaller batches and a higher rate, on 512 pictures
              that are made of the images (few.py), by the last two stages of a network that shrinks its maps
    dinov3    DINOv3's last stage, on COCO (arXiv:2508.10104, appendix D.9): 1,500 and 1,500 queries of which 6 answer
              for an object, 2,048 pixels in 3 x 3 windows, a mirror with 0.5, the short side from U(1,228, 2,048) or
              else a piece of 60 to 100 % of the area first, IA-BCE, 12 passes of 118,287 images at 2.5e-5, which falls
              to a tenth by a cosine over the last four; at test eight short sides and their mirrors

All weights decay, norms and biases too, as DETR's do: neither paper says of any that they do not.

What the paper leaves open is assumed (unconfirmed): batches of 32 as in its first stage; a piece in every second view,
of the shape of its image; a gradient cut to 0.1, as DETR's (arXiv:2005.12872); 2 for the weight of IA-BCE. An image
whose long side is more than 4/3 of the size (in `dinov3` 8 times) is shown smaller: a strip would take any memory.
"""

from dataclasses import dataclass, field, replace

from dinokit.core.numbers import above, at_least
from dinokit.dense.detr.losses import Weights
from dinokit.dense.detr.network import Config as Sizes
from dinokit.dense.detr.views import View
from dinokit.dense.fit import Training


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a detector is, what it sees and how it learns."""

    view: View
    dim: int = at_least(32, 256)
    hidden: int = at_least(1, 1024)
    box_hidden: int = at_least(1, 64)
    encoder: int = at_least(0, 2)  # layers
    decoder: int = at_least(1, 3)  # layers
    finer: bool = False
    queries: int = at_least(1, 100)
    many: int = at_least(0, 100)  # queries in training of which several answer for an object
    repeats: int = at_least(1, 6)  # how many
    weights: Weights = field(default_factory=Weights)
    lr: float = above(0, 2e-4)
    batch_size: int = at_least(1, 8)
    pictures: int = field(default=0, repr=False)  # fewer images are made so many, of pieces; stamps are of the data
    training: Training
    shortest: int | None = at_least(1, None)  # pixels: views are drawn at every step, of this short side to view.size
    tested: tuple[int, ...] = ()  # short sides that are merged at test, mirrored too; empty: view.size alone

    def sizes(self, *, width: int, stride: int, classes: int) -> Sizes:
        """Return the sizes of the detector for features of a width, so many pixels apart."""
        return Sizes(
            width=width,
            classes=classes,
            stride=stride,
            dim=self.dim,
            hidden=self.hidden,
            box_hidden=self.box_hidden,
            encoder=self.encoder,
            decoder=self.decoder,
            finer=self.finer,
            queries=self.queries,
            many=self.many,
        )

    def at(self, size: int) -> "Recipe":
        """Return the recipe at another short side: what views are drawn and merged from keeps its share of it."""
        share = size / self.view.size
        longest = None if self.view.longest is None else self.view.longest * size // self.view.size
        return replace(
            self,
            view=replace(self.view, size=size, longest=longest),
            shortest=None if self.shortest is None else max(1, round(self.shortest * share)),
            tested=tuple(dict.fromkeys(max(1, round(side * share)) for side in self.tested)),
        )


_SMALL = Recipe(
    view=View(size=512, longest=683),
    training=Training(iterations=3_000, warmup=200, weight_decay=0.05, clip=0.1, save_every=100),
)

RECIPES = {
    "small": _SMALL,
    "few": replace(
        _SMALL,
        view=replace(_SMALL.view, stages=2),
        queries=20,
        many=20,
        lr=5e-4,
        batch_size=4,
        pictures=512,
        training=replace(_SMALL.training, iterations=2_000),
    ),
    "dinov3": Recipe(
        view=View(size=2048, longest=16_384, windows=3),
        dim=768,
        hidden=2048,
        box_hidden=512,
        encoder=6,
        decoder=6,
        finer=True,
        queries=1500,
        many=1500,
        weights=Weights(kind="ia-bce", boxes=4.0),
        lr=2.5e-5,
        batch_size=32,
        training=Training(iterations=44_358, warmup=2_000, schedule="held", weight_decay=0.05, clip=0.1, save_every=50),
        shortest=1228,
        tested=(1536, 1728, 1920, 2112, 2304, 2496, 2688, 2880),
    ),
}
