"""Encoder, skip, decoder, head: every network of the collection, by name.

smp and timm take seconds to import. They load when a name below is first used.
"""

from ..common.lazy import lazily

_HOMES = {
    "create_model": "registry",
    "for_run": "registry",
    "load_saved": "registry",
    "check_model": "names",
    "check_pretrained": "names",
    "has_own_encoder": "names",
    "is_family": "names",
    "is_random": "names",
    "label": "names",
    "list_models": "names",
    "supervised": "names",
    "check_weights": "encoders",
    "NestedUNet": "family",
    "NestedUnetPlusPlus": "unetpp_smp",
    "ThinUnet": "thin",
    "UnetV2": "thin",
    "with_skip": "any_smp",
}

__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)
