"""Compose scenes with exact truth: photo cut-outs, whose alpha is their mask, on photo backgrounds.

    shared/fetch_data.sh FETCHED tux walls opencv skimage
    python benchmarks/scenes.py FETCHED OUT [--size 128] [--train 1500] [--val 300] [--clips 12] [--frames 30] ...

OUT then holds
    scenes/{train,val}/{images,masks,depth}   for `evaluate segmentation` and `evaluate depth`
    scenes/{train,val}/boxes.json             of every object, as COCO writes them, for `evaluate discovery`
    things/{train,val}/{images,masks}         one large object each; its mask is 1
    clips/                                    DAVIS layout, for `evaluate tracking`: objects that move, turn, occlude
    pairs/pairs.jsonl                         for `evaluate matching`: a scene and its warp, with other colours
    objects/{train,val}/CLASS                 for `evaluate knn`: one object, small turns, any background
    objects/test/CLASS                        the objects of train on the backgrounds of val
    unlabelled/                               for `pretrain`: scenes of the train side, and as many of single objects
No cut-out and no background is on both sides, train and val; clips and pairs are made of the val side. The same seed
gives the same bytes. Depth is in units of 1/1000: an object of twice the size is at half the distance.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

STAMPS = "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
CLASSES = {  # name: folders of the stamps
    "mammal": ("animals/mammals", "animals/marsupials"),
    "bird": ("animals/birds",),
    "fish": ("animals/fish", "animals/shellfish"),
    "insect": ("animals/insects",),
    "fruit": ("food/fruit",),
    "vegetable": ("food/vegetables",),
    "flower": ("plants/flowers",),
    "building": ("town/houses", "town/monuments"),
    "vehicle": ("vehicles",),
    "tool": ("household/tools", "household/arttools", "household/dishes"),
}
EXAMPLES = "opencv-doc/usr/share/doc/opencv-doc/examples/data"
BACKGROUNDS = (
    "lomiri-wallpapers-16.04/usr/share/backgrounds/*.jpg",
    "lomiri-wallpapers-20.04/usr/share/backgrounds/*.jpg",
    "mate-backgrounds/usr/share/backgrounds/mate/nature/*.jpg",
    *(
        f"{EXAMPLES}/{name}.jpg"
        for name in ("baboon", "leuvenA", "aloeL", "board", "starry_night", "home", "butterfly")
    ),
    *(f"scikit-image/skimage/data/{name}" for name in ("coffee.png", "gravel.png", "brick.png", "grass.png")),
)
VAL = 0.3  # share of cut-outs and of backgrounds
VOID = 255  # class of half-transparent edges
FAR, UNIT = 10.0, 1000  # depth of the background; units of the PNG
Sprite = Image.Image


@dataclass(frozen=True)
class CutOut:
    """An object: RGBA, cropped to what is opaque."""

    label: int  # from 1
    picture: Sprite


@dataclass(frozen=True)
class Placed:
    """A cut-out in a scene."""

    cutout: CutOut
    x: float  # centre, as a share of the side
    y: float
    scale: float  # longer side, as a share of the side
    turn: float  # degrees
    mirrored: bool


@dataclass(frozen=True)
class Scene:
    """What a composed picture shows."""

    image: Image.Image
    classes: np.ndarray  # uint8, VOID at edges
    objects: np.ndarray  # uint8, which of those placed, from 1; 0: background
    depth: np.ndarray  # float


def main() -> None:
    """Write all sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fetched", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=128, help="side of scenes in pixels")
    for name, count in {"train": 1500, "val": 300, "unlabelled": 6000, "pairs": 200, "clips": 12, "frames": 30}.items():
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--clip-size", type=int, default=256)
    parser.add_argument("--views", type=int, default=8, help="pictures of each object in objects/")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sides = dict(zip(("train", "val"), split(args.fetched, args.seed), strict=True))
    for side, (cutouts, backgrounds) in sides.items():
        print(f"{side}: {len(cutouts)} cut-outs, {len(backgrounds)} backgrounds", flush=True)
    draw = np.random.default_rng(args.seed)
    composers = {side: Composer(*of, draw) for side, of in sides.items()}
    moved = Composer(sides["train"][0], sides["val"][1], draw)
    write_objects(moved, args.out / "objects" / "test", views=max(1, args.views // 4), size=args.size // 2)
    for side, composer in composers.items():
        write_scenes(composer, args.out / "scenes" / side, count=getattr(args, side), size=args.size)
        write_objects(composer, args.out / "objects" / side, views=args.views, size=args.size // 2)
        if side == "train":
            write_unlabelled(composer, args.out / "unlabelled", count=args.unlabelled, size=args.size)
        else:
            write_clips(composer, args.out / "clips", count=args.clips, frames=args.frames, size=args.clip_size)
            write_pairs(composer, args.out / "pairs", count=args.pairs, size=args.clip_size)
    for side, composer in composers.items():
        write_things(composer, args.out / "things" / side, count=getattr(args, side) // 2, size=args.size)
    names = ["background", *CLASSES]
    (args.out / "scenes" / "classes.txt").write_text("\n".join(names) + "\n")
    (args.out / "things" / "classes.txt").write_text("background\nobject\n")


def split(fetched: Path, seed: int) -> list[tuple[list[CutOut], list[Image.Image]]]:
    """Read cut-outs and backgrounds, and divide both: train, val."""
    draw = np.random.default_rng([seed, 1])
    sides: list[tuple[list[CutOut], list[Image.Image]]] = [([], []), ([], [])]
    for label, folders in enumerate(CLASSES.values(), start=1):
        paths = sorted(path for folder in folders for path in (fetched / STAMPS / folder).rglob("*.png"))
        found = [sprite for path in paths if "cartoon" not in path.parts and (sprite := cut_out(path)) is not None]
        _need(found, fetched / STAMPS)
        for place, index in enumerate(draw.permutation(len(found))):
            sides[place < VAL * len(found)][0].append(CutOut(label, found[index]))
    photos = [path for pattern in BACKGROUNDS for path in sorted(fetched.glob(pattern))]
    _need(photos, fetched / "*backgrounds*")
    for place, index in enumerate(draw.permutation(len(photos))):
        photo = Image.open(photos[index]).convert("RGB")
        photo.thumbnail((1024, 1024))
        sides[place < VAL * len(photos)][1].append(photo)
    return sides


def cut_out(path: Path) -> Sprite | None:
    """Read a stamp; None if it has no outline: an opaque or an empty rectangle."""
    picture = Image.open(path).convert("RGBA")
    box = picture.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox()
    if box is None or min(box[2] - box[0], box[3] - box[1]) < 40:
        return None
    picture = picture.crop(box)
    picture.thumbnail((256, 256))
    opaque = (np.asarray(picture.getchannel("A")) > 127).mean()
    return picture if 0.1 < opaque < 0.95 else None


def _need(found: list, place: Path) -> None:
    if not found:
        sys.exit(f"nothing found in {place}; fetch the sets tux, walls, opencv and skimage with fetch_data.sh first")


class Composer:
    """Draws scenes from one side's cut-outs and backgrounds."""

    def __init__(self, cutouts: list[CutOut], backgrounds: list[Image.Image], draw: np.random.Generator) -> None:
        self.cutouts, self.backgrounds, self.draw = cutouts, backgrounds, draw
        self.labels = sorted({each.label for each in cutouts})

    def cutout(self) -> CutOut:
        """Draw a class, then one of its objects: classes are balanced."""
        label = self.draw.choice(self.labels)
        return self.cutouts[self.draw.choice([i for i, each in enumerate(self.cutouts) if each.label == label])]

    def placed(self, count: int, *, scales: tuple[float, float] = (0.25, 0.7)) -> list[Placed]:
        """Draw objects and places; the largest, which is nearest, comes last."""
        objects = [
            Placed(
                self.cutout(),
                x=self.draw.uniform(0.15, 0.85),
                y=self.draw.uniform(0.15, 0.85),
                scale=self.draw.uniform(*scales),
                turn=self.draw.uniform(-25, 25),
                mirrored=bool(self.draw.integers(2)),
            )
            for _ in range(count)
        ]
        return sorted(objects, key=lambda each: each.scale)

    def background(self, size: int, *, margin: float = 1.0) -> Image.Image:
        """Cut a square out of a photo, and scale it to `margin` times the size."""
        photo = self.backgrounds[self.draw.integers(len(self.backgrounds))]
        side = int(min(photo.size) * self.draw.uniform(0.4, 1.0))
        x, y = (int(self.draw.integers(length - side + 1)) for length in photo.size)
        target = round(size * margin)
        return photo.resize((target, target), Image.Resampling.BICUBIC, box=(x, y, x + side, y + side))

    def scene(self, size: int) -> Scene:
        """Compose one to four objects."""
        return compose(self.background(size), self.placed(int(self.draw.integers(1, 5))))

    def single(self, cutout: CutOut, size: int) -> Scene:
        """Compose one object that nearly fills the picture."""
        (where,) = self.placed(1, scales=(0.7, 1.0))
        x, y = self.draw.uniform(0.4, 0.6, 2)
        placed = Placed(cutout, x, y, where.scale, where.turn, where.mirrored)
        return compose(self.background(size), [placed])


def compose(background: Image.Image, placed: list[Placed]) -> Scene:
    """Paste objects, later ones over earlier ones."""
    size = background.width
    image = background.convert("RGB")
    classes, objects = (np.zeros((size, size), dtype=np.uint8) for _ in range(2))
    depth = np.full((size, size), FAR)
    for number, each in enumerate(placed, start=1):
        sprite = turned(each, size)
        corner = round(each.x * size - sprite.width / 2), round(each.y * size - sprite.height / 2)
        layer = Image.new("RGBA", image.size)
        layer.paste(sprite, corner)
        image.paste(layer, mask=layer.getchannel("A"))
        alpha = np.asarray(layer.getchannel("A")) / 255
        classes[alpha > 0.2] = VOID
        classes[alpha > 0.8] = each.cutout.label
        objects[alpha > 0.5] = number
        depth[alpha > 0.5] = 1 / each.scale
    return Scene(image, classes, objects, depth)


def turned(each: Placed, size: int) -> Sprite:
    """Return the object as it is pasted: scaled, mirrored, turned."""
    sprite = each.cutout.picture
    factor = each.scale * size / max(sprite.size)
    sprite = sprite.resize(tuple(max(2, round(length * factor)) for length in sprite.size), Image.Resampling.LANCZOS)
    if each.mirrored:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return sprite.rotate(each.turn, Image.Resampling.BICUBIC, expand=True)


def write_scenes(composer: Composer, out: Path, *, count: int, size: int) -> None:
    """Write images with their classes, depths and boxes."""
    folders = {name: _folder(out / name) for name in ("images", "masks", "depth")}
    kinds = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    boxes: dict[str, list[dict[str, object]]] = {"images": [], "annotations": [], "categories": kinds}
    for index in range(count):
        scene, name = composer.scene(size), f"{index:05d}"
        scene.image.save(folders["images"] / f"{name}.jpg", quality=92)
        Image.fromarray(scene.classes).save(folders["masks"] / f"{name}.png")
        Image.fromarray((scene.depth * UNIT).astype(np.uint16)).save(folders["depth"] / f"{name}.png")
        boxes["images"].append({"id": index, "file_name": f"{name}.jpg", "width": size, "height": size})
        for number in np.unique(scene.objects[scene.classes != VOID]).tolist():
            mark = {"id": len(boxes["annotations"]), "image_id": index, "iscrowd": 0}
            if number:  # 0: the background; of what is hidden but for an edge no class is left
                boxes["annotations"].append(mark | _box(scene, number))
    (out / "boxes.json").write_text(json.dumps(boxes))


def _box(scene: Scene, number: int) -> dict[str, object]:
    rows, columns = np.nonzero(scene.objects == number)
    found = scene.classes[rows, columns]
    left, top = int(columns.min()), int(rows.min())
    size = [int(columns.max()) + 1 - left, int(rows.max()) + 1 - top]
    return {"category_id": int(np.bincount(found[found != VOID]).argmax()), "bbox": [left, top, *size]}


def write_things(composer: Composer, out: Path, *, count: int, size: int) -> None:
    """Write pictures of one large object with its mask."""
    images, masks = _folder(out / "images"), _folder(out / "masks")
    for index in range(count):
        scene = composer.single(composer.cutout(), size)
        scene.image.save(images / f"{index:05d}.jpg", quality=92)
        mask = np.where(scene.classes == VOID, VOID, scene.objects)
        Image.fromarray(mask.astype(np.uint8)).save(masks / f"{index:05d}.png")


def write_unlabelled(composer: Composer, out: Path, *, count: int, size: int) -> None:
    """Write scenes and single objects in turns, without their truth."""
    _folder(out)
    for index in range(count):
        scene = composer.scene(size) if index % 2 else composer.single(composer.cutout(), size)
        scene.image.save(out / f"{index:05d}.jpg", quality=92)


def write_objects(composer: Composer, out: Path, *, views: int, size: int) -> None:
    """Write every object on some backgrounds, by class."""
    names = list(CLASSES)
    for index, cutout in enumerate(composer.cutouts):
        folder = _folder(out / names[cutout.label - 1])
        for view in range(views):
            composer.single(cutout, size).image.save(folder / f"{index:03d}_{view}.jpg", quality=92)


def write_clips(composer: Composer, out: Path, *, count: int, frames: int, size: int) -> None:
    """Write clips in DAVIS layout: two or three objects move on straight lines and turn; the background pans."""
    names = [f"clip{index:02d}" for index in range(count)]
    lists = _folder(out / "ImageSets" / "2017")
    (lists / "val.txt").write_text("\n".join(names) + "\n")
    palette = [0, 0, 0, 230, 60, 60, 60, 180, 75, 60, 90, 220]
    for name in names:
        pictures = _folder(out / "JPEGImages" / "480p" / name)
        masks = _folder(out / "Annotations" / "480p" / name)
        for index, scene in enumerate(_clip(composer, frames, size)):
            scene.image.save(pictures / f"{index:05d}.jpg", quality=92)
            mask = Image.fromarray(scene.objects, mode="P")
            mask.putpalette(palette)
            mask.save(masks / f"{index:05d}.png")


def _clip(composer: Composer, frames: int, size: int) -> Iterator[Scene]:
    draw, margin = composer.draw, 1.3
    wide = composer.background(size, margin=margin)
    placed = composer.placed(int(draw.integers(2, 4)), scales=(0.3, 0.55))
    way = draw.uniform(-0.35, 0.35, (len(placed), 2))
    turn, growth = draw.uniform(-30, 30, len(placed)), draw.uniform(0.8, 1.25, len(placed))
    pan = draw.uniform(0, (margin - 1) * size, (2, 2))  # where the window begins and ends
    for time in np.linspace(0, 1, frames):
        x, y = np.round(pan[0] + time * (pan[1] - pan[0])).astype(int).tolist()
        now = [
            Placed(
                each.cutout,
                each.x + time * way[i, 0],
                each.y + time * way[i, 1],
                each.scale * growth[i] ** time,
                each.turn + time * turn[i],
                each.mirrored,
            )
            for i, each in enumerate(placed)
        ]
        yield compose(wide.crop((x, y, x + size, y + size)), now)


def write_pairs(composer: Composer, out: Path, *, count: int, size: int, points: int = 12) -> None:
    """Write scenes and their warps: a homography and a change of light; points lie on objects."""
    folder = _folder(out / "images")
    lines = []
    while len(lines) < count:
        scene = composer.scene(size)
        forward, warped = _warp(scene.image, composer.draw)
        rows, columns = np.nonzero(scene.objects)
        chosen = composer.draw.permutation(len(rows))[: 4 * points]
        source = np.stack([columns, rows], axis=1)[chosen].astype(float)
        target = forward(source)
        inside = ((target >= 0) & (target <= size - 1)).all(axis=1)
        source, target = source[inside][:points], target[inside][:points]
        if len(source) < points:
            continue
        names = [f"images/{len(lines):04d}{letter}.jpg" for letter in "ab"]
        scene.image.save(out / names[0], quality=92)
        warped.save(out / names[1], quality=92)
        both = {"points_a": source.round(2).tolist(), "points_b": target.round(2).tolist()}
        lines.append(json.dumps({"image_a": names[0], "image_b": names[1], **both}))
    assert folder.is_dir()
    (out / "pairs.jsonl").write_text("\n".join(lines) + "\n")


def _warp(image: Image.Image, draw: np.random.Generator) -> tuple[Callable[[np.ndarray], np.ndarray], Image.Image]:
    """Return where points (pixel centres at whole numbers) go, and the warped picture with other colours."""
    size = image.width
    angle, scale = np.deg2rad(draw.uniform(-30, 30)), draw.uniform(0.75, 1.3)
    centre = (size - 1) / 2
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forward = np.eye(3)
    forward[:2, :2] = turn
    forward[:2, 2] = centre - turn @ (centre, centre) + draw.uniform(-0.08, 0.08, 2) * size
    forward[2, :2] = draw.uniform(-0.1, 0.1, 2) / size  # perspective
    back = np.linalg.inv(forward)
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])  # PIL counts from the corner of a pixel
    shift = np.array([[1, 0, size], [0, 1, size], [0, 0, 1]])  # mirrored on all sides: no corner stays black
    wide = Image.fromarray(np.pad(np.asarray(image), ((size, size), (size, size), (0, 0)), mode="symmetric"))
    matrix = shift @ half @ back @ np.linalg.inv(half)
    warped = wide.transform(
        image.size, Image.Transform.PERSPECTIVE, (matrix / matrix[2, 2]).flatten()[:8], Image.Resampling.BICUBIC
    )
    light = np.asarray(warped) / 255 * draw.uniform(0.8, 1.2, 3) + draw.uniform(-0.1, 0.1, 3)

    def go(points: np.ndarray) -> np.ndarray:
        moved = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ forward.T
        return moved[:, :2] / moved[:, 2:]

    return go, Image.fromarray((light.clip(0, 1) * 255).round().astype(np.uint8))


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


if __name__ == "__main__":
    main()
