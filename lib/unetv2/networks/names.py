"""The names of all models, read without building any; smp and timm are not needed for that.

    thin+SKIP       U-Net v2's frame with any skip: `thin+copy`, `thin+nested`, `thin+sdi`, ...
    unetv2          what was published, as the paper writes it; unetv2-released: as its code does
    pranet, ...     the methods that the papers compare with, as published: `PEERS`
    tmi-MEMBER      UNet++'s own family, without a pretrained encoder (the article in IEEE TMI)
    smp-ARCH        an architecture of segmentation-models-pytorch, plain
    smp-ARCH+SKIP   the same with a skip between encoder and decoder

A name splits at the first + that a skip follows. Behind it may stand, in this order, -cN (width of
the skip; 32), -lN (the N coarsest levels alone take part) and -nods or -ds (trained without or with
deep supervision; a name with neither: thin+ with, smp- without). `thin+my_module:MySkip` has a
reader's own skip.
"""

import re
from dataclasses import dataclass

from ..common.errors import unknown

__all__ = ["Parts", "check_model", "check_pretrained", "has_own_encoder", "is_family", "is_random"]
__all__ += ["label", "list_models", "parts", "supervised"]

# smp's architectures that decode several levels. DPT's encoder hands out no pyramid; PSPNet and
# DeepLabV3 read the last level alone.
PYRAMID = {
    "unet": "U-Net",
    "unetplusplus": "UNet++",
    "manet": "MAnet",
    "linknet": "LinkNet",
    "fpn": "FPN",
    "deeplabv3plus": "DeepLabV3+",
    "pan": "PAN",
    "upernet": "UPerNet",
    "segformer": "SegFormer",
}
FAMILY = {  # UNet++'s own: what readers see
    **{f"tmi-unet-l{d}": f"U-Net L{d}" for d in (1, 2, 3, 4)},
    "tmi-unet-wide": "wide U-Net",
    "tmi-unet-e": "U-Net^e",
    "tmi-unet+": "UNet+",
    "tmi-unet+-nods": "UNet+, one head",
    "tmi-unet++": "UNet++",
    "tmi-unet++-nods": "UNet++, one head",
    "tmi-unet++-l2": "UNet++ L2",
    "tmi-unet++-l3": "UNet++ L3",
}
FILLED = {  # smp's blocks over an encoder whose stride-2 level is filled where it is missing
    "smp-unet-stride2": "U-Net (smp), stride 2 filled",
    "smp-unetplusplus-stride2": "UNet++ (smp), stride 2 filled",
    "smp-unetplusplus-ds": "UNet++ (smp), deep supervision",
    "smp-unetplus": "UNet+ (smp)",
    "smp-unetplus-ds": "UNet+ (smp), deep supervision",
}
PUBLISHED = {"unetv2": "U-Net v2", "unetv2-released": "U-Net v2, released order"}

PEERS = {  # what the papers compare with
    "sanet": "SANet",
    "pranet": "PraNet",
    "polyp-pvt": "Polyp-PVT",
    "transfuse-s": "TransFuse-S",
    "transfuse-l": "TransFuse-L",
    "malunet": "MALUNet",
    "ege-unet": "EGE-UNet",
}
PUBLISHED_ENCODER = {  # of the peers that take any
    "sanet": "tu-res2net50d",  # Res2Net-50 v1b, 26w x 4s
    "pranet": "tu-res2net50d",
    "polyp-pvt": "tu-pvt_v2_b2",
}
ONE_HEAD = {"sanet", "malunet"}  # peers without deep supervision
BINARY = {"pranet", "ege-unet"}  # defined for one foreground
RANDOM = {"malunet", "ege-unet"}  # nobody has pretrained their encoders

AMBIGUOUS = {  # names that could mean three things each
    "unet": ("thin+copy", "smp-unet", "tmi-unet-l4"),
    "unetpp": ("thin+nested", "smp-unetplusplus", "tmi-unet++"),
    "unet++": ("thin+nested", "smp-unetplusplus", "tmi-unet++"),
}


@dataclass(frozen=True)
class Parts:
    """A name with a skip, taken apart."""

    base: str  # "thin" or "smp-ARCH"
    skip: str
    c: int = 32
    levels: int | None = None
    deep_supervision: bool = False


def parts(name: str) -> Parts | None:
    """The parts of `name`, or None where no registered skip follows a + in it."""
    from ..skips import is_skip  # here: it loads torch, and the door asks what names alone say

    for plus in re.finditer(r"\+", name):
        base, rest = name[: plus.start()], name[plus.end() :]
        found = re.fullmatch(r"(.+?)(?:-c([1-9]\d*))?(?:-l([1-9]\d*))?(?:-(nods|ds))?", rest)
        if found and is_skip(found[1]):
            supervision = found[4] == "ds" if found[4] else base == "thin"
            levels = int(found[3]) if found[3] else None
            return Parts(base, found[1], int(found[2] or 32), levels, supervision)
    return None


def list_models() -> list[str]:
    """The names that `create_model` takes, each kind with its plainest; see this file for more."""
    from ..skips import SKIPS

    return [
        *(f"thin+{skip}" for skip in SKIPS),
        *PUBLISHED,
        *PEERS,
        *FAMILY,
        *(f"smp-{arch}" for arch in PYRAMID),
        *(f"smp-{arch}+sdi" for arch in PYRAMID),
        *FILLED,
        "smp-unet+sdi-l4-ds",
    ]


def check_model(name: str) -> None:
    """ValueError for a name that `create_model` does not take; it names what was meant."""
    if name in AMBIGUOUS:
        meant = ", ".join(map(repr, AMBIGUOUS[name]))
        raise ValueError(f"model {name!r} could mean several networks: choose {meant}")
    found = parts(name)
    base = found.base if found else name
    bases = ["thin", *(f"smp-{arch}" for arch in PYRAMID)]
    whole = {*PUBLISHED, *PEERS, *FAMILY, *FILLED, *(f"smp-{arch}" for arch in PYRAMID)}
    if not (base in bases if found else name in whole):
        raise unknown("model", name, [*list_models(), "thin+module:Class"])


def check_pretrained(name: str) -> None:
    """ValueError for a model whose encoder nobody has pretrained."""
    if is_random(name):
        how = "use encoder_weights=None (null in a config)"
        raise ValueError(f"{name} has no pretrained encoder: {how}")


def supervised(name: str) -> bool:
    """Whether a training of `name` is one with deep supervision.

    Raises:
        ValueError: an unknown name.
    """
    check_model(name)
    if found := parts(name):
        return found.deep_supervision
    if name in FAMILY:
        return "unet-l" not in name and name != "tmi-unet-wide" and not name.endswith("-nods")
    if name in PEERS:
        return name not in ONE_HEAD
    return name in PUBLISHED or name.endswith("-ds")


def is_family(name: str) -> bool:
    """Whether `name` is one of UNet++'s own family, which has no encoder of smp or timm."""
    return name in FAMILY


def is_random(name: str) -> bool:
    """Whether nobody has pretrained the encoder of `name`."""
    return name in FAMILY or name in RANDOM


def has_own_encoder(name: str) -> bool:
    """Whether `name` brings its encoder, so that one of smp or timm has no part in it."""
    return name in FAMILY or name in PEERS.keys() - PUBLISHED_ENCODER.keys()


def label(name: str) -> str:
    """What readers see: "copy (U-Net's skip)" for `thin+copy`, "U-Net L4" for `tmi-unet-l4`.

    Raises:
        ValueError: an unknown name.
    """
    check_model(name)
    if title := {**PUBLISHED, **PEERS, **FAMILY, **FILLED}.get(name):
        return title
    found = parts(name)
    if not found:
        return f"{PYRAMID[name.removeprefix('smp-')]} (smp)"
    from ..skips import label as label_of_skip

    text, thin = label_of_skip(found.skip), found.base == "thin"
    if not thin:
        text += f" in {PYRAMID[found.base.removeprefix('smp-')]} (smp)"
    text += f", c = {found.c}" * (found.c != 32)
    text += f", {found.levels} coarsest levels" * bool(found.levels)
    if found.deep_supervision != thin:
        text += ", deep supervision" if found.deep_supervision else ", one head"
    return text
