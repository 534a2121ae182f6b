"""U-Net, UNet++ and U-Net v2: the skip connection, taken apart.

>>> model = create_model("thin+sdi", encoder="resnet18")   # list_models() has the names
>>> model = from_pretrained("isic2017-thin+sdi")           # published weights, or a run folder
>>> skip = SDI([64, 128, 320, 512], c=32)                  # a list of maps in, a list of maps out
"""

from .common.lazy import lazily

__version__ = "0.2.0"

_HOMES = {
    "SDI": "skips",
    "UnetV2": "networks",
    "create_model": "networks",
    "from_pretrained": "inference.load",
    "list_models": "networks",
}

__all__ = ["SDI", "UnetV2", "__version__", "create_model", "from_pretrained", "list_models"]

__getattr__ = lazily(__name__, _HOMES)  # torch, timm and smp load at first use
