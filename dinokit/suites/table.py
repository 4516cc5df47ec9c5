"""What a suite measures: a line per task, with the kind of data that it wants and its settings.

`quick` is ours, minutes on a CPU. The others are those of the papers: `paper-v2` the tables 4 and 6 to 11 of DINOv2
(arXiv:2304.07193), `paper-v3` the tables 3 to 5, 7, 8, 22 and 23 and figure 14 of DINOv3 (arXiv:2508.10104);
`classification`, `robustness`, `retrieval` and `dense` are DINOv3's protocols on whatever data there are. Names of sets
are those of `sources/published` and of `suites/found`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dinokit.core.messages import unknown_name

FINE = (  # the twelve of SimCLR, with CUB for Birdsnap
    "food101",
    "cifar10",
    "cifar100",
    "sun397",
    "cars",
    "aircraft",
    "voc07",
    "dtd",
    "pets",
    "caltech101",
    "flowers102",
    "cub",
)
LARGE = ("inat18", "inat21", "places205")
IMAGENET = "imagenet"
HARDER = ("imagenet-real", "imagenet-v2", "imagenet-r", "imagenet-a", "imagenet-c", "imagenet-sketch", "objectnet")
INSTANCES = ("roxford5k", "rparis6k", "met", "amstertime")
MASKS = ("ade20k", "cityscapes", "voc12")
DEPTHS = ("nyuv2", "kitti")
VIDEOS = ("davis", "youtube-vos", "mose")
# number -> whether less of it is better, and its name for a person
LOWER = frozenset({"RMSE", "AbsRel", "mCE"})
HEADLINES = {"knn": "best"}  # of a task the number that counts, where it is not the first
PROTOCOL = ("protocol", "size")  # settings that make a protocol of a task
WANTS = {  # kind of data -> what it is called, and how it lies in a folder
    "classes": ("labelled images", "a folder with one folder per class, or train/ and val/ of such"),
    "instances": ("pictures of the same things", "a folder with one folder per thing, of a few pictures each"),
    "robustness": ("what tests a head of ImageNet", "as published"),
    "masks": ("masks", "train/ and val/ with images/ and masks/, or ADE20K, Cityscapes, Pascal VOC"),
    "depth": ("depths", "train/ and val/ with images/ and depth/, or NYUv2, KITTI"),
    "few masks": ("a few masks", "images/ and masks/ without splits"),
    "boxes": ("boxes", "boxes.csv, Pascal VOC, COCO, LVIS, YOLO"),
    "videos": ("videos", "JPEGImages/ and Annotations/: DAVIS, YouTube-VOS, MOSE"),
    "pairs": ("pairs", "pairs.jsonl with points, SPair-71k, NAVI"),
}


@dataclass(frozen=True)
class Line:
    """One evaluation of a suite, on each set of a kind."""

    task: str  # an evaluation, by name
    kind: str  # of data, see WANTS
    sets: tuple[str, ...] = ()  # the published sets that the paper has; none: whatever is of the kind
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the evaluation
    name: str = ""  # of the same task with several settings, such as ms
    tests: tuple[str, ...] = ()  # published sets that the chosen head is measured on, as far as they are there

    @property
    def title(self) -> str:
        """How the line is called in tables."""
        return f"{self.task} {self.name}".strip()

    @property
    def protocol(self) -> str:
        """The words by which published numbers know it."""
        return " ".join([self.task, *(str(self.settings[key]) for key in PROTOCOL if key in self.settings)])


def headline(task: str, numbers: Mapping[str, float]) -> str:
    """Return the name of the number that counts."""
    wanted = (HEADLINES.get(task, ""), "mCE")
    return next((name for name in wanted if name in numbers), next(iter(numbers)))


def lower_is_better(number: str) -> bool:
    """Tell whether less is better."""
    return number.split("/")[-1].split("@")[0] in LOWER


V2, V3 = {"protocol": "dinov2"}, {"protocol": "dinov3"}
QUICK = (
    Line("knn", "classes", settings={"limit": 2_000, "k": (10, 20)}),
    Line("logreg", "classes", settings={"limit": 2_000, "c": tuple(10.0**power for power in range(-4, 4))}),
    Line("linear", "classes", settings={"protocol": "quick", "limit": 2_000}),
    Line("retrieval", "instances"),
    Line("segmentation", "masks", settings={"protocol": "quick"}),
    Line("depth", "depth", settings={"protocol": "quick"}),
    Line("foreground", "few masks", settings={"size": 256}),
    Line("discovery", "boxes", settings={"size": 224, "limit": 100}),
    Line("tracking", "videos", settings={"size": "S"}),
    Line("matching", "pairs", settings={"limit": 10, "stride": 8}),
)
DENSE = (
    Line("segmentation", "masks", settings={"protocol": "linear"}),
    Line("depth", "depth", settings={"protocol": "linear"}),
    Line("foreground", "few masks"),
    Line("discovery", "boxes"),
    *(Line("tracking", "videos", settings={"size": size}, name=size) for size in "SML"),
    Line("matching", "pairs"),
)
SUITES: dict[str, tuple[Line, ...]] = {
    "quick": QUICK,
    "classification": (
        Line("knn", "classes"),
        Line("linear", "classes", settings=V3),
        Line("logreg", "classes"),
        Line("attentive", "classes"),
    ),
    "robustness": (Line("linear", "classes", (IMAGENET,), V3, tests=HARDER),),
    "retrieval": (Line("retrieval", "instances"),),
    "dense": DENSE,
    "paper-v2": (
        Line("knn", "classes", (IMAGENET,)),
        Line("linear", "classes", (IMAGENET,), V2, tests=HARDER[:-1]),
        Line("linear", "classes", LARGE, V2),
        Line("logreg", "classes", FINE),
        Line("retrieval", "instances", INSTANCES),
        Line("segmentation", "masks", MASKS, {"protocol": "linear-v2"}),
        Line("segmentation", "masks", MASKS, {"protocol": "ms"}, "ms"),
        Line("depth", "depth", DEPTHS, {"protocol": "linear-v2"}, "lin. 1"),
        Line("depth", "depth", DEPTHS, {"protocol": "linear4"}, "lin. 4"),
        Line("depth", "depth", DEPTHS, {"protocol": "dpt"}, "DPT"),
    ),
    "paper-v3": (
        Line("linear", "classes", (IMAGENET,), V3, tests=HARDER),
        Line("linear", "classes", LARGE, V3),
        Line("logreg", "classes", FINE),
        Line("retrieval", "instances", INSTANCES),
        Line("segmentation", "masks", MASKS, {"protocol": "linear"}),
        Line("depth", "depth", DEPTHS, {"protocol": "linear"}),
        *(Line("tracking", "videos", VIDEOS, {"size": size}, size) for size in "SML"),
        Line("matching", "pairs", ("navi", "spair")),
        Line("discovery", "boxes", ("voc07", "voc12", "coco20k")),
    ),
}


def find(name: str) -> tuple[Line, ...]:
    """Return the lines of a suite, or raise UserError."""
    if name not in SUITES:
        raise unknown_name("suite", name, SUITES)
    return SUITES[name]
