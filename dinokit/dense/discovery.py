"""TokenCut: find the object of an image in its patches alone, with nothing learnt.

Two patches are joined by E = 1 where their cosine is above tau, and else by 1e-5. Of all ways to cut these joints, the
one that costs least beside what both parts hold is told by the second smallest y of (D - E) y = lambda D y, where D has
the sums of the rows of E. Foreground are the patches on that side of the mean of y on which the largest |y| lies; the
object is what hangs together with that patch, side by side, and the answer is its box. Of equal |y| the first counts.
Source: TokenCut (arXiv:2202.11539), section 3; tau is swept as in DINOv3 (arXiv:2508.10104).

Where all patches are alike, or none is like another, no cut is better than others: the box is the whole image.

D^1/2 y is the second largest eigenvector of D^-1/2 E D^-1/2, whose largest is known. Lanczos' method finds it in
float64 with some dozens of products, where all eigenvectors would take the cube of the patches. Of several that are
equally good it gives what its start has of them, which is always the same. Memory: a cosine in float32 and a joint of
one byte for each two patches, or of eight, up to 4,096 patches.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Float64
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional as F

from dinokit.core.device import exact, slices
from dinokit.core.seed import generator
from dinokit.dense.draw import rgb
from dinokit.dense.maps import Frame
from dinokit.images import intensity
from dinokit.metrics.boxes import Boxes

APART = 1e-5  # joins patches that are not alike
AT_ONCE = 1 << 24  # joints that are held in float64: 128 MiB
TOLERANCE = 1e-9  # of M x - lambda x, x of length 1
STEPS = 1000  # of Lanczos' method, at most; what is found by then is taken
EQUAL = 1e-6  # |y| that differ by a smaller share are equal
RIGHT, WRONG, TRUE = (40, 200, 80), (235, 60, 60), (255, 255, 255)

Box = tuple[int, int, int, int]  # left, top, right, bottom in patches, the last two the first ones outside


def objects(patches: Float[Tensor, "patch dim"], grid: tuple[int, int], taus: Sequence[float]) -> list[Box]:
    """Return the box of the object for every tau.

    Args:
        patches: row-major over the grid of (rows, columns).
    """
    count = len(patches)
    vectors = F.normalize(patches.to(exact(patches.device)).double(), dim=1)
    parts = slices(vectors.device, rows=count, columns=count)
    cosines = torch.cat([(vectors[part] @ vectors.T).float() for part in parts])  # [patch, patch]
    found = []
    for tau in taus:
        near = cosines > tau
        near &= near.T.clone()  # the two of a pair may round to both sides of tau
        whole = bool(near.all()) or int(near.sum()) <= count  # each is like itself
        found.append((0, 0, grid[1], grid[0]) if whole else box_of(second(near), grid))
    return found


def second(near: Bool[Tensor, "patch patch"]) -> Float64[Tensor, " patch"]:
    """Return the second smallest eigenvector, up to its length and sign.

    Args:
        near: which patches are alike; symmetric.
    """
    times, root = _joints(near)
    count = len(near)
    basis = root.new_empty(min(count, STEPS + 1), count)  # of length 1 and at right angles; the first is known
    basis[0] = root / root.norm()
    start = torch.from_numpy(generator(count).standard_normal(count)).to(root)
    start -= basis[0] * (basis[0] @ start)
    basis[1] = start / start.norm()
    diagonal, beside, look = list[float](), list[float](), 8
    for step in range(1, len(basis)):
        moved = times(basis[step])
        diagonal.append(float(basis[step] @ moved))
        for _ in range(2):  # once leaves what rounding has brought back
            moved -= basis[: step + 1].T @ (basis[: step + 1] @ moved)
        length, last = float(moved.norm()), step + 1 == len(basis)
        if last or step == look or length < TOLERANCE:
            look += max(8, look // 4)
            side = torch.tensor(beside, dtype=torch.float64)
            line = torch.tensor(diagonal, dtype=torch.float64).diag() + side.diag(1) + side.diag(-1)
            share = torch.linalg.eigh(line).eigenvectors[:, -1]
            if last or length * float(share[-1].abs()) < TOLERANCE:
                break
        beside.append(length)
        basis[step + 1] = moved / length
    found: Tensor = basis[1 : step + 1].T @ share.to(root) / root
    return found


def _joints(near: Bool[Tensor, "patch patch"]) -> tuple[Callable[[Tensor], Tensor], Float64[Tensor, " patch"]]:
    """Return what multiplies a vector by D^-1/2 E D^-1/2, and the roots of D."""
    count = len(near)
    parts = slices(near.device, rows=count, columns=count)
    held = [near.double()] if count**2 <= AT_ONCE else None
    root = (APART * count + (1 - APART) * near.sum(dim=1).double()).sqrt()

    def times(vector: Float64[Tensor, " patch"]) -> Float64[Tensor, " patch"]:
        values = vector / root
        shares = [rows @ values for rows in held or (near[part].double() for part in parts)]
        return (APART * values.sum() + (1 - APART) * torch.cat(shares)) / root

    return times, root


def box_of(y: Float64[Tensor, " patch"], grid: tuple[int, int]) -> Box:
    """Return the box of what hangs together with the patch of the largest |y| on its side of the mean."""
    size = y.abs()
    seed = int((size >= (1 - EQUAL) * size.max()).nonzero()[0])
    above = y > y.mean()
    side = (above == above[seed]).view(grid).tolist()
    todo, reached = [divmod(seed, grid[1])], set[tuple[int, int]]()
    while todo:
        row, column = todo.pop()
        inside = 0 <= row < grid[0] and 0 <= column < grid[1]
        if inside and side[row][column] and (row, column) not in reached:
            reached.add((row, column))
            todo += [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
    down, across = zip(*reached)
    return min(across), min(down), max(across) + 1, max(down) + 1


def at_pixels(box: Box, frame: Frame, patch: int) -> tuple[float, float, float, float]:
    """Return where a box of patches lies on the image that they show, cut to it."""
    (top, left), (height, width) = frame.corner, frame.size
    places = zip(box, (left, top, left, top), (width, height, width, height), strict=True)
    first, above, end, below = (float(min(max(patch * side - corner, 0), most)) for side, corner, most in places)
    return first, above, end, below


def drawn(image: intensity.AnyImage, truth: Boxes, box: Boxes, *, right: bool) -> Image.Image:
    """Draw the boxes of a person in white and the one that was found, in green if it is right, else in red."""
    page = Image.fromarray(rgb(image))
    pen = ImageDraw.Draw(page)
    width = max(1, round(max(page.size) / 200))
    for boxes, colour in ((truth, TRUE), (box, RIGHT if right else WRONG)):
        for left, top, end, bottom in boxes.tolist():
            pen.rectangle((left, top, max(end - 1, left), max(bottom - 1, top)), outline=colour, width=width)
    return page
