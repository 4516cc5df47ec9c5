"""Photos of one object with its surface: NAVI (arXiv:2306.09109), which shows it in other places.

    [navi_v1/]OBJECT/wild_set/annotations.json, images/*.jpg, depth/*.png

A depth PNG holds 655350 / millimetres, 0 where the object is not. A pose turns and moves a point of the object, in
millimetres, to the camera: x right, y down, z ahead; q is (w, x, y, z). The optical axis meets the middle of the image.
Its pairs (as in probe3d, arXiv:2404.08636): every fourth view, with another of its object that is drawn among those
whose camera is turned by up to 120 degrees. The draw is ours, so single pairs differ from the published ones.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from dinokit.annotations.depths import read_numbers
from dinokit.annotations.pairing import read_image
from dinokit.core.files import read_json
from dinokit.core.messages import UserError
from dinokit.images import intensity

EVERY, WIDEST, SEED = 4, 120.0, 8  # views, degrees
SCENE = "wild_set"
_SCALE = 655350.0  # of a depth PNG

Points = Float[numpy.ndarray, "point 2"]  # (x, y), pixels of an image, whole numbers at the centres


@dataclass(frozen=True)
class View:
    """A photo of an object, and from where it was taken."""

    image: Path
    depth: Path
    rotation: Float[numpy.ndarray, "3 3"]
    translation: Float[numpy.ndarray, " 3"]  # millimetres
    focal: float  # as a share of the width of the image

    def read(self, channels: int, white: float | int | None = None) -> "Surface":
        """Read the image and the depth of the object in it, or raise UserError: also if their shapes differ."""
        image, values = read_image(self.image, channels=channels, white=white), read_numbers(self.depth)
        height, width = image.shape[1:]
        if abs(values.shape[0] * width - values.shape[1] * height) > max(height, width):
            raise UserError(f"{self.depth} is no depth of {self.image}: {values.shape} is no {height, width}")
        if not values.any():
            raise UserError(f"{self.depth} shows no object; the set is not complete")
        distance = numpy.zeros(values.shape)
        distance[values > 0] = _SCALE / values[values > 0]
        return Surface(image, distance, self.focal * width)


@dataclass(frozen=True)
class Surface:
    """An image and how far what it shows is."""

    image: intensity.Image
    # millimetres along the axis, 0: not the object; may be of less pixels
    distance: Float[numpy.ndarray, "height width"]
    focal: float  # pixels of the image

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right, bottom of the object in pixels of the image; the last two are the first ones outside."""
        rows, columns = numpy.nonzero(self.distance > 0)
        across, down = (numpy.array(self.image.shape[1:]) / self.distance.shape)[::-1]  # pixels of a cell
        left, top = math.floor(columns.min() * across), math.floor(rows.min() * down)
        return left, top, math.ceil((columns.max() + 1) * across), math.ceil((rows.max() + 1) * down)

    def at(self, places: Points) -> tuple[Float[numpy.ndarray, "point 3"], Bool[numpy.ndarray, " point"]]:
        """Return points of the surface in the camera's frame, in millimetres, and where there is one."""
        height, width = self.image.shape[1:]
        inside = numpy.all((places > -0.5) & (places < numpy.array([width, height]) - 0.5), axis=1)
        cells = numpy.array(self.distance.shape[::-1]) / (width, height)
        columns, rows = numpy.where(inside[:, None], (places + 0.5) * cells, 0).astype(int).T
        ahead = numpy.where(inside, self.distance[rows, columns], 0)
        across = (places + 0.5 - numpy.array([width, height]) / 2) / self.focal
        points: Float[numpy.ndarray, "point 3"] = numpy.column_stack([across, numpy.ones(len(places))]) * ahead[:, None]
        return points, ahead > 0


@dataclass(frozen=True)
class ViewPair:
    """Two photos of one object."""

    name: str  # of the object
    views: tuple[View, View]

    def carry(self, points: Float[numpy.ndarray, "point 3"]) -> Float[numpy.ndarray, "point 3"]:
        """Bring points from the frame of the first camera to that of the second."""
        first, second = self.views
        of_object = (points - first.translation) @ first.rotation
        carried: Float[numpy.ndarray, "point 3"] = of_object @ second.rotation.T + second.translation
        return carried


def views_of(base: Path, files: list[Path]) -> list[ViewPair]:
    """Draw the pairs of all objects, or raise UserError.

    Args:
        base: the set, for messages.
        files: annotations.json of every object.
    """
    draw = numpy.random.default_rng(SEED)
    pairs = []
    for file in files:
        views = _views(file)
        near = angles(numpy.stack([view.rotation for view in views]))
        for index, view in enumerate(views):
            partners = numpy.flatnonzero((near[index] <= WIDEST) & (numpy.arange(len(views)) != index))
            if len(partners):
                pairs.append(ViewPair(file.parent.parent.name, (view, views[draw.choice(partners)])))
    if not pairs:
        raise UserError(f"no two views of an object in {base} are within {WIDEST:g} degrees; the set is not complete")
    return pairs[::EVERY]


def angles(rotations: Float[numpy.ndarray, "view 3 3"]) -> Float[numpy.ndarray, "view view"]:
    """Return by how many degrees each two views are turned."""
    traces = numpy.einsum("aij,bij->ab", rotations, rotations)
    turned: Float[numpy.ndarray, "view view"] = numpy.degrees(numpy.arccos(((traces - 1) / 2).clip(-1, 1)))
    return turned


def _views(file: Path) -> list[View]:
    views, listed = list[View](), read_json(file)
    try:
        for about in listed:
            camera, (_, width) = about["camera"], about["image_size"]
            image = file.parent / "images" / about["filename"]
            translation = numpy.array(camera["t"], dtype=numpy.float64).reshape(3)
            focal = float(camera["focal_length"]) / width
            depth = file.parent / "depth" / f"{image.stem}.png"
            views.append(View(image, depth, rotation(camera["q"]), translation, focal))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is no list of views with a camera as NAVI has it: {error!r}") from error
    for path in (path for view in views for path in (view.image, view.depth)):
        if not path.is_file():
            raise UserError(f"{path} does not exist; the set is not complete")
    return views


def rotation(quaternion: ArrayLike) -> Float[numpy.ndarray, "3 3"]:
    """Return the matrix of a quaternion (w, x, y, z) of any length but 0."""
    values = numpy.array(quaternion, dtype=numpy.float64).reshape(4)
    w, x, y, z = values / numpy.linalg.norm(values)
    return numpy.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
