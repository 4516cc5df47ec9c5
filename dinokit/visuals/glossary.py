"""One plain sentence for every quantity a report shows; a reader should need no other page."""

import re

TERMS: dict[str, tuple[str, str]] = {  # pattern of the name in the log -> (title, meaning)
    r"loss": ("Loss", "The weighted sum of the terms. Training makes it smaller; its height alone says little."),
    r"loss/dino_global": (
        "DINO, global crops",
        "How badly the student's summary of one large crop predicts the teacher's summary of the other; "
        "log(number of prototypes) is pure chance.",
    ),
    r"loss/dino_local": ("DINO, local crops", "The same from a small crop: the part has to predict the whole."),
    r"loss/dino.*": ("DINO", "How badly the student's summary of one view predicts the teacher's of another view."),
    r"loss/ibot.*": (
        "iBOT",
        "How badly the student guesses what the teacher says about patches that the student was not shown.",
    ),
    r"loss/koleo.*": (
        "KoLeo",
        "Low when the images of a batch are spread evenly; keeps features from crowding together.",
    ),
    r"loss/gram": ("Gram", "How far the similarities between patches have drifted from those of an earlier teacher."),
    r"loss/.+": ("Term of the loss", "What it measures, the objective of this name says; smaller is better."),
    r"lr": ("Learning rate", "The size of the optimiser's steps."),
    r"weight_decay": ("Weight decay", "How strongly weights are pulled towards zero."),
    r"momentum": (
        "Teacher momentum",
        "The share of itself that the teacher keeps in a step; the rest is the student's.",
    ),
    r"teacher_temperature": ("Teacher temperature", "Lower makes the teacher's targets sharper."),
    r"images_per_second": ("Images per second", "Training speed, counted in images, not in crops."),
    r"data_wait": ("Data wait", "The share of time spent waiting for images; near 1, reading them is the bottleneck."),
    r"health/[^/]+/target_entropy": (
        "Target entropy",
        "How undecided the teacher's targets are, in nats; 0 is one prototype, log(number of prototypes) none at all.",
    ),
    r"health/[^/]+/student_entropy": ("Student entropy", "The same of the student's own guess."),
    r"health/[^/]+/marginal_entropy": (
        "Marginal entropy",
        "The entropy of the teacher's mean over images, before any balancing; low when few prototypes are ever used.",
    ),
    r"health/[^/]+/.*_entropy_share": ("Entropy, share", "The same as a share of the largest possible."),
    r"health/[^/]+/information": (
        "Information",
        "What a prototype tells of the image: entropy of the mean minus mean entropy, as a share of the largest that "
        "so few images can show. 0 in every kind of collapse.",
    ),
    r"health/[^/]+/used": (
        "Prototypes in use",
        "The share of prototypes that are the first choice of some image; of no more of them than there are images.",
    ),
    r"health/[^/]+/top": ("Largest prototype", "The share of images that choose the most popular prototype."),
    r"health/[^/]+/agreement": ("Same choice", "How often student and teacher choose the same prototype."),
    r"health/rank_.*_share": ("Effective rank, share", "The effective rank as a share of the largest possible."),
    r"health/rank_.*": (
        "Effective rank",
        "In how many directions the teacher's features vary (RankMe); 1 when all images look the same to it.",
    ),
    r"health/nearest": ("Nearest image", "Median distance of an image to its nearest on the sphere; 0 is a collapse."),
    r"health/agreement": ("Student and teacher", "Mean cosine between what student and teacher make of an image."),
    r"health/(cls|patch)_norm": ("Length", "Mean length of the teacher's tokens before the final norm."),
    r"health/(cls|patch)_norm_max": ("Largest length", "The longest of these tokens."),
    r"health/patch_outliers": ("Outlying patches", "The share of patches that are three times as long as the median."),
    r"health/locality": (
        "Locality",
        "How much more alike neighbouring patches are than distant ones of the same image; near 0, maps are noise. "
        "An anchor is chosen by it.",
    ),
    r"health/same_place": (
        "Same place",
        "How well patches find themselves again in a mirrored, paler copy of the image; 0 is as well as any place.",
    ),
    r"health/cls_patch": (
        "CLS and patches",
        "Mean cosine of patches with their CLS token; rises when patches forget what is local.",
    ),
    r"health/knn": ("k-NN of the probe", "Percent of these few images whose neighbours among them are of their class."),
    r"health/(student|teacher)_change": ("Change", "How far features have moved since the last look, relatively."),
    r"health/repeated_(crops|images)": (
        "Repeated",
        "The share of a step's crops or images that the last steps had already; small, or the loader repeats itself.",
    ),
    r"health/not_finite": ("Not finite", "The share of images whose features hold NaN or infinity."),
    r"health/cost": ("Cost of looking", "The time spent on these measurements, as a share of the training time."),
    r"grad_norm/.*": ("Gradient norm", "The length of the gradient before clipping; sudden peaks announce trouble."),
}

CONCEPTS: tuple[tuple[str, str], ...] = (
    (
        "Teacher",
        "A slow moving average of the student, the model in training. It is what is saved, measured and shown.",
    ),
    (
        "k-NN accuracy",
        "Each test image takes the class that its k most similar training images vote for. Nothing is trained for it "
        "and no label was seen in training: it measures the features alone.",
    ),
    (
        "Retrieval mAP",
        "Mean average precision; 100 % if every image finds all other pictures of the same thing before anything else.",
    ),
    ("Raw pixels", "The baseline whose features are the pixels. On small, centred pictures it is strong."),
    (
        "Untrained",
        "The baseline with the same architecture and random weights. What it reaches owes nothing to training.",
    ),
    ("Percent points", "The plain difference of two percentages: from 60 % to 66 % are 6 points."),
    ("PCA of patch features", "The three directions in which patch features vary most, shown as red, green and blue."),
    (
        "Anchor",
        "The earlier teacher to whose similarities of patches Gram anchoring holds the student, so that its dense "
        "features do not fade in a long training.",
    ),
    ("Nearest neighbours", "The images whose CLS features have the largest cosine with those of the query."),
)


def title(name: str) -> str:
    """Return the title of a logged quantity, with the objective or the part that it is of; an unknown one's name."""
    entry = _entry(name)
    if entry is None:
        return name
    if name.startswith("grad_norm/"):
        return f"{entry[0]}, {name.split('/', 1)[1]}"
    if name.startswith("loss/"):
        *student, term = name.split("/")[1:]
        of = [*student, *([term] if entry is TERMS[r"loss/.+"] else [])]
        return ", ".join([entry[0], *of])
    if not name.startswith("health/"):
        return entry[0]
    first, *rest = name.removeprefix("health/").split("/")
    if len(rest) == 1:
        whose = f"{first} {rest[0].split('_')[0]}" if rest[0].endswith("_share") else first
    else:
        part = re.search(r"cls|patch(es)?|crops|images|student|teacher", first)
        whose = {"cls": "CLS", "patch": "patches"}.get(part[0], part[0]) if part else ""
    return f"{entry[0]}, {whose}" if whose else entry[0]


def meaning(name: str) -> str:
    """Return what a logged quantity means, empty if unknown."""
    entry = _entry(name)
    return "" if entry is None else entry[1]


def _entry(name: str) -> tuple[str, str] | None:
    known = re.sub("^loss/.+/", "loss/", name)  # a student's term is the term of all
    return next((entry for pattern, entry in TERMS.items() if re.fullmatch(pattern, known)), None)
