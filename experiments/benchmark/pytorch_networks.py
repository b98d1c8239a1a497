"""Our networks as PyTorch modules, translated layer by layer: both compute the same function."""

import collections

import torch
from torch import nn

from dann_jax import networks
from dann_jax.backbones import AlexNet

__all__ = ["translated"]


def translated(model: networks.DannModel, pixels: int) -> dict[str, nn.Sequential]:
    """Returns G_f, G_y and G_d as PyTorch modules, in training mode.

    Args:
      model: One of ours; batch normalization is not translated.
      pixels: Height and width of the images.

    Returns:
      Modules ``'f'``, ``'y'`` and ``'d'``; images are ``[n, 3, pixels, pixels]``, and features are
      flattened from ``[n, channel, height, width]``.

    Raises:
      ValueError: The network has no translation.
    """
    f = nn.Sequential(_features(model.feature_extractor))
    with torch.no_grad():
        width = f.eval()(torch.zeros(1, 3, pixels, pixels)).shape[1]
    y = nn.Sequential(_fully_connected(model.label_predictor, width))
    d = nn.Sequential(_fully_connected(model.domain_classifier, width))
    return {"f": f.train(), "y": y.train(), "d": d.train()}


def _dropout(layer):
    return nn.Dropout(layer.dropout_rate)


def _input_dropout(module):
    return nn.Dropout(module.input_dropout_rate)


def _features(module):
    if isinstance(module, networks.OfficeFeatures) and isinstance(module.backbone, AlexNet):
        return _alexnet(module.backbone) | {"bottleneck": nn.Linear(4096, module.bottleneck)}
    if not isinstance(module, networks.ConvolutionalFeatures) or module.statistics is not None:
        raise ValueError(
            "this network has no translation to PyTorch: leave it out, or --against-pytorch"
        )
    layers = collections.OrderedDict(drop_input=_input_dropout(module))
    channels, same = 3, module.padding == "SAME"
    for i, layer in enumerate(module.layers, start=1):
        padding = layer.kernel // 2 if same else 0
        layers[f"conv{i}"] = nn.Conv2d(channels, layer.features, layer.kernel, padding=padding)
        layers[f"relu{i}"] = nn.ReLU()
        if layer.pool is not None:
            # SAME lets the last window of 3 stick out of an even size.
            layers[f"pool{i}"] = nn.MaxPool2d(layer.pool, 2, ceil_mode=same)
        layers[f"drop{i}"] = _dropout(layer)
        channels = layer.features
    return _without_idle_dropout(layers) | {"flat": nn.Flatten()}


def _alexnet(module):
    layers, channels = collections.OrderedDict(), 3
    convolutions = (  # features, window, stride, padding, pooling after it
        (64, 11, 4, 2, True),
        (192, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (256, 3, 1, 1, False),
        (256, 3, 1, 1, True),
    )
    for i, (features, kernel, stride, padding, pooled) in enumerate(convolutions, start=1):
        layers[f"conv{i}"] = nn.Conv2d(channels, features, kernel, stride, padding)
        layers[f"relu{i}"] = nn.ReLU()
        if pooled:
            layers[f"pool{i}"] = nn.MaxPool2d(3, 2)
        channels = features
    layers["flat"] = nn.Flatten()
    for name, width in (("fc6", channels * 6 * 6), ("fc7", 4096)):
        layers[name] = nn.Linear(width, 4096)
        layers[f"relu_{name}"] = nn.ReLU()
        layers[f"drop_{name}"] = _dropout(module)
    return _without_idle_dropout(layers)


def _fully_connected(module, width):
    layers = collections.OrderedDict()
    for i, units in enumerate(module.hidden, start=1):
        layers[f"fc{i}"] = nn.Linear(width, units)
        layers[f"relu{i}"] = nn.ReLU()
        layers[f"drop{i}"] = _dropout(module)
        width = units
    layers["logits"] = nn.Linear(width, module.outputs)
    return _without_idle_dropout(layers)


def _without_idle_dropout(layers):
    """Returns the layers except dropout that drops nothing."""
    return collections.OrderedDict(
        (name, layer)
        for name, layer in layers.items()
        if not (isinstance(layer, nn.Dropout) and layer.p == 0)
    )
