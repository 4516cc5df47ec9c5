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
    r"lr": ("Learning rate", "The size of the optimiser's steps."),
    r"weight_decay": ("Weight decay", "How strongly weights are pulled towards zero."),
    r"momentum": (
        "Teacher momentum",
        "The share of itself that the teacher keeps in a step; the rest is the student's.",
    ),
    r"teacher_temperature": ("Teacher temperature", "Lower makes the teacher's targets sharper."),
    r"images_per_second": ("Images per second", "Training speed, counted in images, not in crops."),
    r"data_wait": ("Data wait", "The share of time spent waiting for images; near 1, reading them is the bottleneck."),
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
    (
        "PCA of patch features",
        "The three directions in which patch features vary most, shown as red, green and blue.",
    ),
    ("Nearest neighbours", "The images whose CLS features have the largest cosine with those of the query."),
)


def title(name: str) -> str:
    """Return the title of a logged quantity; an unknown one keeps its name."""
    entry = _entry(name)
    if entry is None:
        return name
    return f"{entry[0]}, {name.split('/', 1)[1]}" if name.startswith("grad_norm/") else entry[0]


def meaning(name: str) -> str:
    """Return what a logged quantity means, empty if unknown."""
    entry = _entry(name)
    return "" if entry is None else entry[1]


def _entry(name: str) -> tuple[str, str] | None:
    return next((entry for pattern, entry in TERMS.items() if re.fullmatch(pattern, name)), None)
