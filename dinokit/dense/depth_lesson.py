"""What a depth head is trained on: windows of images and of their depths, and what it costs to be wrong."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from dinokit.annotations.depths import Depths
from dinokit.core.seed import generator
from dinokit.dense.depth_losses import gradient_loss, sigloss
from dinokit.dense.embedding import normalised
from dinokit.dense.maps import scaled
from dinokit.images import intensity as images
from dinokit.models.features import Backbone

WARM = 100  # first steps in which sigloss leaves the variance out


@dataclass
class Lesson:
    """Batches that are a function of the step, and their loss."""

    backbone: Backbone
    train: Depths
    window: tuple[int, int]  # rows, columns
    short: int | None  # pixels; short side to which images are resized first
    batch_size: int
    seed: int
    low: float  # metres
    high: float
    gradient: float  # weight of the gradient loss
    step: int = 0  # of the newest batch

    def sample(
        self, step: int
    ) -> tuple[Float[Tensor, "batch channel rows columns"], Float[Tensor, "batch rows columns"]]:
        """Draw a batch: every image once per pass, in a new order each."""
        self.step = step
        crops, truths = [], []
        for place in range(step * self.batch_size, (step + 1) * self.batch_size):
            turn, position = divmod(place, len(self.train))
            index = int(generator(self.seed, turn).permutation(len(self.train))[position])
            image, truth = crop(self.train, index, self.window, self.short, key=(self.seed, turn, position))
            crops.append(image)
            truths.append(truth)
        # missing pixels are 0 once normalised
        return normalised(self.backbone, torch.stack(crops)).nan_to_num_(0.0), torch.stack(truths)

    def loss(self, found: Float[Tensor, "batch 1 rows columns"], truth: Tensor) -> Float[Tensor, ""]:
        """Return sigloss, with the gradient loss if it has a weight; what is out of range does not count."""
        truth = torch.where((truth > self.low) & (truth < self.high), truth, 0.0)
        term = sigloss(found[:, 0], truth, warm=self.step < WARM)
        return term + self.gradient * gradient_loss(found[:, 0], truth) if self.gradient else term


def crop(
    train: Depths, index: int, window: tuple[int, int], short: int | None, *, key: tuple[int, ...]
) -> tuple[Float[Tensor, "channel rows columns"], Float[Tensor, "rows columns"]]:
    """Cut a window out of an image and its depth, mirror half of them, change the light of half by up to a quarter."""
    draws = generator(*key)
    pixels, truth, (darkest, lightest) = seen(train, index, short)
    top, left = (int(draws.integers(max(side - wanted, 0) + 1)) for side, wanted in zip(truth.shape, window))
    place = (slice(top, top + window[0]), slice(left, left + window[1]))
    pixels, truth = pixels[(..., *place)], truth[place]
    if draws.random() < 0.5:
        pixels, truth = pixels.flip(-1), truth.flip(-1)
    if draws.random() < 0.5:
        pixels = (pixels * float(draws.uniform(0.75, 1.25))).clamp(darkest, lightest)
    missing = (0, window[1] - truth.shape[1], 0, window[0] - truth.shape[0])
    return F.pad(pixels, missing, value=torch.nan), F.pad(truth, missing, value=0.0)


def seen(
    train: Depths, index: int, short: int | None
) -> tuple[Float[Tensor, "channel rows columns"], Float[Tensor, "rows columns"], tuple[float, float]]:
    """Return what training sees of an image and its depth, and the range of its values.

    Its scale is that of a test, which sees the border as well: the whole image is resized, then the border goes.
    """
    image, metres = train.read(index)
    pixels = scaled(image, short=short)[0]
    truth = F.interpolate(torch.from_numpy(metres)[None, None], size=pixels.shape[1:], mode="nearest-exact")[0, 0]
    if train.layout.border is not None:
        factor = 1.0 if short is None else short / min(metres.shape)
        top, bottom, left, right = (round(edge * factor) for edge in train.layout.border)
        pixels, truth = pixels[:, top:bottom, left:right], truth[top:bottom, left:right]
    return pixels, truth, images.value_range(image)
