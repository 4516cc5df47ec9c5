"""Image towers of OpenCLIP.

    load("ViT-B-32/laion2b_s34b_b79k")      an architecture and a tag of its weights (open_clip.list_pretrained())
    load("local-dir:FOLDER")                a folder with open_clip_config.json and weights
    load("hf-hub:OWNER/NAME")

cls is what the tower pools an image into before the projection into the space of text. Patches pass the norm that this
vector gets. A tower of timm is read as any model of timm is. OpenCLIP's own ViT knows one size of images; its table of
positions is fitted to others as the library does when weights are loaded for one. Towers whose pooling is itself the
projection (CLIP's ResNets, CoCa) are refused.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from dinokit.core.hub import fetching
from dinokit.core.messages import UserError, library, unknown_name
from dinokit.models.features import Features
from dinokit.models.position import resized
from dinokit.peers.peer import Peer, pixels_of
from dinokit.peers.timm import Timm

EXTRA = "open_clip"
SOURCES = ("local-dir:", "hf-hub:")


def load(name: str) -> Peer:
    """Load an image tower of OpenCLIP, or raise UserError; the tower of texts is left behind."""
    what = f"open_clip/{name}"
    open_clip = library("open_clip", extra=EXTRA)
    local = name.startswith("local-dir:")

    architecture, tag = (name, None) if name.startswith(SOURCES) else _named(open_clip, name)

    def tower(*, trained: bool) -> Any:
        with fetching(what, local=local, instead="put its files into a folder, give open_clip/local-dir:FOLDER"):
            return _created(open_clip, architecture, tag, trained=trained)

    visual = tower(trained=True)
    data = visual.preprocess_cfg
    pixels = pixels_of(data["mean"], data["std"], data["size"])
    if hasattr(visual, "trunk"):
        return Timm(visual.trunk, name=what, pixels=pixels, build=lambda: tower(trained=False).trunk)
    if getattr(visual, "attn_pool", True) is not None:
        raise UserError(f"{what} pools by attention into the space of text, as RN50 and CoCa do; choose a plain ViT")
    return OpenClip(visual, name=what, pixels=pixels, build=lambda: tower(trained=False))


class OpenClip(Peer):
    """OpenCLIP's own vision transformer."""

    def measure(self, network: Any) -> None:
        """Read the sizes of a tower and take its projection off."""
        network.proj, network.output_tokens = None, False
        self.dim, self.patch_size = network.ln_post.normalized_shape[0], network.patch_size[0]
        self.channels, self.depth, self.tokens = network.conv1.in_channels, network.transformer.layers, True

    def run(
        self, images: Float[Tensor, "batch channel height width"], layers: Sequence[int], *, norm: bool
    ) -> tuple[Features, Mapping[int, Features]]:
        """Return the features of the whole network, and those after each of some layers."""
        theirs: Any = self.network
        wanted = sorted({*layers, self.depth - 1})
        grid = (images.shape[2] // self.patch_size, images.shape[3] // self.patch_size)
        positions = resized(theirs.positional_embedding[None], grid, how="antialias")[0]  # [1 + patch, dim]
        options = {"indices": wanted, "output_fmt": "NCHW", "output_extra_tokens": True}
        out = functional_call(_Layers(theirs), {"tower.positional_embedding": positions}, (images,), options)
        states = dict(zip(wanted, zip(out["image_intermediates_prefix"], out["image_intermediates"])))
        final = self._features(*states[self.depth - 1], norm=True, pooled=out["image_features"])
        return final, {index: self._features(*states[index], norm=norm, pooled=None) for index in layers}

    def _features(self, prefix: Tensor, maps: Tensor, *, norm: bool, pooled: Tensor | None) -> Features:
        theirs: Any = self.network
        final_norm = theirs.ln_post if norm else nn.Identity()
        raw = Features.from_maps(maps)
        first, patches = final_norm(prefix), final_norm(raw.patches)
        return Features(first[:, 0] if pooled is None else pooled, first[:, 1:], patches, raw.grid)


class _Layers(nn.Module):
    """A tower that gives its inner layers when it is called."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, *given: Any, **options: Any) -> Any:
        return self.tower.forward_intermediates(*given, **options)


def _created(open_clip: Any, architecture: str, tag: str | None, *, trained: bool) -> Any:
    # the weights know which GELU they were trained with; the architecture's default would be silently worse
    quick = tag is not None and bool(open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu"))
    model = open_clip.create_model(
        architecture,
        pretrained=tag if trained else None,
        load_weights=trained,
        require_pretrained=trained,  # otherwise missing weights are random ones, and a line in the log
        pretrained_text=False,
        force_quick_gelu=quick,
    )
    return model.visual.float().eval()


def _named(open_clip: Any, name: str) -> tuple[str, str]:
    """Split ARCHITECTURE/TAG, or raise UserError if there are no such weights."""
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        raise unknown_name("architecture of open_clip", architecture, open_clip.list_models())
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not tags:
        raise UserError(f"open_clip has no weights for {architecture}; give yours as open_clip/local-dir:FOLDER")
    if not tag:
        raise UserError(f"which weights of {architecture}? Give open_clip/{architecture}/TAG, of: {', '.join(tags)}")
    if tag not in tags:
        raise unknown_name(f"weights of {architecture}", tag, tags)
    return architecture, tag
