"""From vectors of the cells of an image to vectors of a finer grid, the rows nearest to one row of cells at a time.

Both grids cover the image evenly: point i of n lies at (i + 0.5) / n of a side.

    Bilinear     By distance from the two nearest cells each way; beyond the outermost middles they stay as they are.
    Bilateral    Joint bilateral up-sampling (Kopf, Cohen, Lischinski, Uyttendaele 2007, section 3): with cells q around
                 a point p, their vectors v and the colours I of a guide,
                     sum_q v_q f(|p - q|) g(|I_p - I_q|) / sum_q f(|p - q|) g(|I_p - I_q|)
                 f, g Gaussians, the former in widths of cells; q the 5 x 5 around the nearest, as published. A
                 deviation: I_q is the mean of the cell and not its middle pixel, for a vector tells of all of a patch.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor
from torch.nn import functional

from dinokit.images import intensity

SPACE, COLOUR = 0.75, 0.1  # deviations of the Gaussians: in widths of cells, and with 1.0 as white
AT_ONCE = 32  # cells of a row whose points are weighed at a time


def nearest(points: int, cells: int) -> Int64[Tensor, " point"]:
    """Return the cell in which each of some points of a side lies."""
    return (2 * torch.arange(points) + 1) * cells // (2 * points)


def places(points: int, cells: int) -> Float64[Tensor, " point"]:
    """Return where points lie, in cells: 0 is the middle of the first."""
    return (torch.arange(points, dtype=torch.float64) + 0.5) * cells / points - 0.5


@final
@dataclass(frozen=True)
class Bilinear:
    """By distance alone."""

    points: tuple[int, int]  # rows and columns of the finer grid
    cells: tuple[int, int]
    reach = 1  # rows of cells above and below that are wanted

    def __call__(
        self, vectors: Float32[Tensor, "cell column dim"], *, first: int, wanted: Int64[Tensor, " row"]
    ) -> Float[Tensor, "row point dim"]:
        """Return the vectors of some rows of points, in float16.

        Args:
            vectors: of the rows of cells from `first` on that are in reach.
        """
        x = places(self.points[1], self.cells[1]).clamp(0, self.cells[1] - 1)
        left = x.long()
        right = (left + 1).clamp(max=self.cells[1] - 1)
        wide = torch.lerp(vectors[:, left], vectors[:, right], (x - left).float()[:, None])  # [cell, point, dim]
        found = torch.empty(len(wanted), *wide.shape[1:], dtype=torch.float16)
        for number, y in enumerate(places(self.points[0], self.cells[0])[wanted].clamp(0, self.cells[0] - 1).tolist()):
            above = int(y)
            below = min(above + 1, self.cells[0] - 1)
            found[number] = torch.lerp(wide[above - first], wide[below - first], y - above)
        return found


@final
class Bilateral:
    """By distance and colour."""

    reach = 2

    def __init__(self, image: intensity.Image, points: tuple[int, int], cells: tuple[int, int]) -> None:
        """Look at the guide, an image of any size."""
        self.points, self.cells = points, cells
        self.guide = intensity.resized(image, *points)
        means = []
        for cell in range(cells[0]):  # of which each has a point, or more; the image in float32 is four times as large
            within = self.guide[:, cell * points[0] // cells[0] : -(-(cell + 1) * points[0] // cells[0])]
            means.append(functional.adaptive_avg_pool2d(intensity.to_unit(within), (1, cells[1]))[:, 0])
        self.means = torch.stack(means).permute(0, 2, 1)  # [cell row, cell column, channel]

    def __call__(
        self, vectors: Float32[Tensor, "cell column dim"], *, first: int, wanted: Int64[Tensor, " row"]
    ) -> Float[Tensor, "row point dim"]:
        """See `Bilinear`."""
        n, colours = len(wanted), intensity.to_unit(self.guide[:, wanted])  # [channel, row, point]
        own = nearest(self.points[1], self.cells[1])
        y, x = places(self.points[0], self.cells[0])[wanted].float(), places(self.points[1], self.cells[1]).float()
        dy = y[:, None] - torch.arange(first, first + len(vectors))  # [row, cell row]
        ends = torch.searchsorted(own, torch.arange(self.cells[1] + 1))  # where the points of each cell begin
        most = int(ends.diff().max())
        found = torch.empty(n, len(own), vectors.shape[-1], dtype=torch.float16)
        for start in range(0, self.cells[1], AT_ONCE):
            cells = torch.arange(start, min(start + AT_ONCE, self.cells[1]))
            around = cells[:, None] + torch.arange(-self.reach, self.reach + 1)  # [cell, 5]
            there = around.clamp(0, self.cells[1] - 1)
            values = vectors[:, there].transpose(0, 1).flatten(1, 2)  # [cell, near, dim]; means alike
            means = (
                self.means[first : first + len(vectors), there].transpose(0, 1).flatten(1, 2)
            )  # [cell, near, channel]
            # of each cell as many points as the largest has, the last one again and again
            points = (ends[cells][:, None] + torch.arange(most)).minimum(ends[cells + 1][:, None] - 1).clamp(0)
            colour = colours[:, :, points].permute(2, 1, 3, 0).flatten(1, 2)  # [cell, row point, channel]
            exact = "donot_use_mm_for_euclid_dist"  # by products, equal colours would be 3e-4 apart
            differ = torch.cdist(colour, means, compute_mode=exact)  # [cell, row point, near]
            dx = torch.where(around == there, 0.0, torch.inf)[:, None] + x[points][..., None] - around[:, None]
            space = dy[None, :, None, :, None] ** 2 + dx[:, None, :, None] ** 2  # [cell, row, point, cell row, 5]
            space = space.flatten(3).flatten(1, 2)  # [cell, row point, near]
            weights = torch.softmax(-space / (2 * SPACE**2) - differ**2 / (2 * COLOUR**2), dim=-1)
            mixed = torch.unflatten(weights @ values, 1, (n, most))  # [cell, row, point, dim]
            mixed = mixed.transpose(0, 1).flatten(1, 2)  # [row, cell point, dim]
            kept = (torch.arange(most) < ends.diff()[cells][:, None]).flatten()
            found[:, int(ends[start]) : int(ends[cells[-1] + 1])] = mixed[:, kept]
        return found
