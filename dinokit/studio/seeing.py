"""What a network sees of an image, computed once: octets of its patches, its attention, its class token.

What is kept is returned at once; all else waits for its pass of the network. The class token is computed as `embed`
does, of the centre square at the size of the evaluations, so that it can be held against a pool.
"""

import math
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from functools import partial
from typing import final

import numpy
from jaxtyping import Float32

from dinokit.core.messages import BadImage
from dinokit.features.embedding import Read, read, square, unit
from dinokit.images.transforms import Short, Square
from dinokit.looks import attention
from dinokit.looks.field import LARGEST, bare, field
from dinokit.models.classifier import Reading
from dinokit.models.features import Backbone
from dinokit.models.vit import VisionTransformer
from dinokit.studio import store
from dinokit.studio.images import Images
from dinokit.studio.networks import Networks, Passes
from dinokit.studio.store import Kept, Patches

KEPT = 256 << 20  # bytes of features and attention


@final
class Seeing:
    """Images, networks and what was computed of them; asked from any thread."""

    def __init__(self, images: Images, networks: Networks, *, size: int) -> None:
        """Start the thread of the network.

        Args:
            size: pixels of the short side of an image, where a network sees its patches.
        """
        self.images, self.networks, self.size = images, networks, size
        self.passes = Passes()
        self._kept = Kept(KEPT)

    def add(self, data: bytes, name: str, *, passing: bool = False) -> dict[str, str]:
        """Keep an upload that every model can see, see `Images.add`; BadImage says what to do with another."""
        return self.images.add(data, name, check=self._fits, passing=passing)

    def drop(self, image: str) -> None:
        """Forget an upload that was passing, and what was computed of it; nothing of any other image."""
        if self.images.drop(image):
            self._kept.drop(lambda name: isinstance(name, tuple) and name[3] == image)

    def features(self, model: str, step: int | None, image: str) -> "Future[bytes]":
        """Return the octets of the patches of an image."""
        _, at = self.networks.at(model, step)
        return self._asked(image, ("features", model, at, image), partial(self._features, model, at, image))

    def attention(self, model: str, step: int | None, image: str, block: int | None) -> "Future[bytes]":
        """Return the octets of the attention of a block from CLS, None the last; UserError where there is none."""
        _, at = self.networks.at(model, step)
        name = ("attention", model, at, image, block)
        return self._asked(image, name, partial(self._attention, model, at, image, block))

    def token(self, model: str, step: int | None, image: str, what: Read | None = None) -> "Future[bytes]":
        """Return the class token of an image, or what else a search reads of it, of length 1, as float32."""
        _, at = self.networks.at(model, step)

        def computed() -> bytes:
            return self.token_now(self.networks.open(model, at), image, what).tobytes()

        return self._asked(image, ("token", model, at, image, what), computed)

    def patches_if_kept(self, model: str, step: int | None, image: str) -> Patches | None:
        """Return the patches of an image if they were computed and are still kept."""
        _, at = self.networks.at(model, step)
        found = self._kept.get(("features", model, at, image))
        return None if found is None else store.patches(found)

    def token_now(self, backbone: Backbone, image: str, what: Read | None = None) -> Float32[numpy.ndarray, " number"]:
        """Compute a class token, or what else is read, in the thread of the network alone."""
        transform = square(backbone)
        found = self.images.read(image, min_side=transform.enough)
        if transform.size is None:  # at its native size an image may be anything
            transform = Square(self.size, backbone.patch_size)
        vector = read(backbone, transform(found)[None].to(backbone.device), what or Reading())
        token: Float32[numpy.ndarray, " number"] = unit(vector.cpu()).float().numpy()[0]
        return token

    def _fits(self, height: int, width: int) -> None:
        if max(Short(self.size, 1).sides(height, width)) > LARGEST:  # as `shown` counts
            times = math.floor(10 * LARGEST / self.size) / 10
            raise BadImage(
                f"{width} x {height} pixels are too long; a long side of up to {times:g} times the short one fits: "
                "crop it"
            )

    def _asked(self, image: str, name: Hashable, compute: Callable[[], bytes]) -> "Future[bytes]":
        self.images.index(image)  # what is not there is said at once
        found = self._kept.get(name)
        if found is not None:
            known: Future[bytes] = Future()
            known.set_result(found)
            return known

        def computed() -> bytes:
            made = compute()
            self._kept.put(name, made)
            return made

        return self.passes.ask(name, computed)

    def _features(self, model: str, step: int | None, image: str) -> bytes:
        backbone, name = self.networks.open(model, step), self.images.about(image)["name"]
        found = field(backbone, self.images.read(image), name=name, size=self.size)
        return store.octets(found.patches, name=self.networks.models[model].name)

    def _attention(self, model: str, step: int | None, image: str, block: int | None) -> bytes:
        backbone, name = self.networks.open(model, step), self.images.about(image)["name"]
        assert isinstance(backbone, VisionTransformer), "asked for of models without blocks"
        looked = bare(self.images.read(image), patch_size=backbone.patch_size, name=name, size=self.size)
        rows, columns, _ = looked.patches.shape
        if rows * columns > attention.MOST:
            most = f"attention takes {attention.MOST:,}"
            raise BadImage(f"{name} has {rows * columns:,} patches, {most}; crop it to be less long")
        return store.shares(attention.from_cls(backbone, looked, backbone.config.depth - 1 if block is None else block))
