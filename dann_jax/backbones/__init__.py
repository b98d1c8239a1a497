"""Backbones of Office-31: networks from images to activations, for ``networks.office``."""

from dann_jax.backbones.alexnet import AlexNet
from dann_jax.backbones.efficientnet_lite import EfficientNetLite
from dann_jax.backbones.pretrained import (
    BACKBONES,
    Backbone,
    load_weights,
    outputs,
    weights_file,
    with_weights,
)
from dann_jax.backbones.resnet import ResNet50
from dann_jax.backbones.weight_files import read_arrays

__all__ = [
    "BACKBONES",
    "AlexNet",
    "Backbone",
    "EfficientNetLite",
    "ResNet50",
    "load_weights",
    "outputs",
    "read_arrays",
    "weights_file",
    "with_weights",
]
