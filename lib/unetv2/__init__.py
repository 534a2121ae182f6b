"""U-Net, UNet++ and U-Net v2: the skip connection, taken apart."""

__version__ = "0.1.0"
