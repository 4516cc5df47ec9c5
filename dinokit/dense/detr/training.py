"""Train a detector on a split of images with boxes; it goes on where it was interrupted."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from dinokit.annotations.boxes import Boxed
from dinokit.core.stopping import ended_as_by_hand
from dinokit.dense.detr.kept import Kept, asked
from dinokit.dense.detr.learning import Drawn, Views, judged, sampled
from dinokit.dense.detr.network import Detector
from dinokit.dense.detr.recipe import Recipe
from dinokit.dense.detr.stamps import digest_of_boxes
from dinokit.dense.detr.views import width_of
from dinokit.dense.fit import Member, fit
from dinokit.dense.maps import frozen
from dinokit.models.features import Backbone


def trained(backbone: Backbone, train: Boxed, classes: Sequence[str], recipe: Recipe, out: Path | None) -> Member:
    """Train a detector by a recipe.

    Args:
        out: folder that keeps the state and, of a recipe whose views are not drawn anew, the features.
    """
    seed, batch_size, steps = recipe.training.seed, recipe.batch_size, recipe.training.iterations
    sizes = recipe.sizes(width=width_of(backbone, recipe.view), stride=backbone.patch_size, classes=len(classes))
    member = Member(Detector(sizes, seed=seed), recipe.lr)
    stamp = {"data": digest_of_boxes(train), "recipe": repr(recipe), "classes": list(classes)}
    with ended_as_by_hand(), TemporaryDirectory() as passing:  # the features of a training that nobody keeps
        if recipe.shortest is None:
            wanted = asked(len(train), steps=steps, batch_size=batch_size, seed=seed)
            folder, passes = (out or Path(passing)) / "features", steps * batch_size
            views: Views = Kept(backbone, train, classes, recipe.view, folder, wanted=wanted, passes=passes)
        else:
            views = Drawn(backbone, train, classes, recipe)
        with frozen(backbone) as device:
            sample = sampled(views, len(train), batch_size=batch_size, seed=seed, device=device)
        fit(backbone, [member], recipe.training, sample=sample, loss=judged(recipe), folder=out, stamp=stamp)
    return member
