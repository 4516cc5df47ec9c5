"""The columns of a suite: the models, and the baselines that every one of them has to beat.

A model is loaded when its column is measured and forgotten after it. Where the number of tokens is given, every model
sees squares of so many patches: 224 or 448 pixels for patches of 14, 256 or 512 for 16, and for networks that shrink by
32 as for patches of 16 (DINOv3, arXiv:2508.10104, section 6.1 and appendix D).
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import isqrt
from pathlib import Path
from typing import Any, final

import torch

from dinokit.checkpoints.load import called, load
from dinokit.core.files import digest_of_model
from dinokit.core.messages import UserError
from dinokit.evaluation import base
from dinokit.models.features import Backbone
from dinokit.models.pixels import ColourHistograms

HISTOGRAMS = "colour-histograms"
STRIDE = 16  # of the patches that a convolutional network is compared with
UNTRAINED, PIXELS = "random-init", "raw-pixels"  # as evaluation.base names them
BASELINES = {UNTRAINED: "untrained", PIXELS: "raw pixels", HISTOGRAMS: "colour histograms"}  # for a person


@final
class Column:
    """A model, or a baseline, of which there is perhaps one for images and one for patches."""

    def __init__(self, name: str, make: Callable[[bool], Backbone], *, two: bool) -> None:
        self.name = name
        self._make, self._two = make, two
        self._made = dict[bool, Backbone | Exception]()

    def backbone(self, *, dense: bool) -> Backbone:
        """Open what is measured, once, also if it cannot be: what was raised then is raised again."""
        which = dense and self._two
        if which not in self._made:
            try:
                self._made[which] = self._make(which)
            except Exception as error:
                self._made[which] = error
        found = self._made[which]
        if isinstance(found, Exception):
            raise found
        return found

    def forget(self) -> None:
        """Let go of its weights."""
        self._made.clear()


def columns(models: Sequence[str], *, baselines: bool, tokens: int | None, device: torch.device) -> list[Column]:
    """Return a column per model, and the baselines, which are those of the first model that can be opened.

    Raises:
        UserError: if no square has so many tokens.
    """
    if tokens is not None and (tokens < 1 or isqrt(tokens) ** 2 != tokens):
        near = max(isqrt(max(tokens, 1)), 1) ** 2
        raise UserError(f"expected a square number of tokens, such as 256 or 1024, got {tokens}; try {near}")
    found = [Column(name, partial(_opened, name, tokens=tokens, device=device), two=False) for name in models]
    return found + [Column(name, partial(_rival, name, found, device), two=True) for name in BASELINES if baselines]


def shown(names: Iterable[str]) -> dict[str, str]:
    """Write the names of columns short: of a path its last part, if no two are then called alike."""
    short = {name: BASELINES.get(name, _last(name)) for name in names}
    twice = {each for each, count in Counter(short.values()).items() if count > 1}
    return {name: name if each in twice else each for name, each in short.items()}


def _last(name: str) -> str:
    path = name.rpartition(":")[2]
    return Path(path).name if os.path.exists(path) else name


def _opened(name: str, _: bool, *, tokens: int | None, device: torch.device) -> Backbone:
    backbone = sized(load(name).to(device), tokens)
    backbone.name = called(name)
    return backbone


def _rival(name: str, models: Sequence[Column], device: torch.device, dense: bool) -> Backbone:
    first = _first(models)
    if name == HISTOGRAMS:
        size = None if dense else first.pixels.size
        return ColourHistograms(patch_size=first.patch_size, size=size, channels=first.channels)
    return base.baselines(first, dense=dense)[name].to(device)


def sized(backbone: Backbone, tokens: int | None) -> Backbone:
    """Make a backbone see squares of so many patches; None: what it was made for."""
    if tokens is None:
        return backbone
    backbone.pixels = replace(backbone.pixels, size=isqrt(tokens) * min(backbone.patch_size, STRIDE))
    return backbone


def about(backbone: Backbone) -> dict[str, Any]:
    """Say what a column is: whose weights, and what it sees of an image."""
    size = backbone.pixels.size
    return {
        "weights": digest_of_model(backbone),
        "patch": backbone.patch_size,
        "side": size,
        "tokens": None if size is None else (size // backbone.patch_size) ** 2,
        "dim": backbone.dim,
        "parameters": sum(each.numel() for each in backbone.parameters()),
        "licence": backbone.licence,
    }


def _first(found: Sequence[Column]) -> Backbone:
    refusal: UserError | None = None
    for column in found:
        try:
            return column.backbone(dense=False)
        except UserError as error:
            refusal = error
    raise refusal or UserError("baselines are those of a model; give one with --models")
