"""Backbones of Office-31: networks from images to activations, for ``networks.office``."""

from dann_jax.backbones.alexnet import AlexNet

__all__ = ["AlexNet"]
