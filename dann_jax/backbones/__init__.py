"""Backbones of Office-31: networks from images to activations, for ``networks.office``."""

from dann_jax.backbones.alexnet import AlexNet
from dann_jax.backbones.efficientnet_lite import EfficientNetLite
from dann_jax.backbones.files import read_arrays
from dann_jax.backbones.published import BACKBONES, Backbone, load_weights, weights_file
from dann_jax.backbones.resnet import ResNet50

__all__ = [
    "BACKBONES",
    "AlexNet",
    "Backbone",
    "EfficientNetLite",
    "ResNet50",
    "load_weights",
    "read_arrays",
    "weights_file",
]
