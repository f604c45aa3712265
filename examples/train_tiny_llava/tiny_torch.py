"""What training reuses of `../train_tiny`; needs PyTorch."""

import tiny  # noqa: F401  sets the path of what follows
from network import Block, RMSNorm, product
from train import encode, padded

__all__ = ["Block", "RMSNorm", "encode", "padded", "product"]
