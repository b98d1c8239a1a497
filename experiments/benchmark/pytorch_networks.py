"""Our networks as PyTorch modules, translated layer by layer: both compute the same function."""

import torch
from torch import nn

from dann_jax import networks
from dann_jax.backbones import AlexNet

__all__ = ["translated"]


def translated(model: networks.DannModel, pixels: int) -> dict[str, nn.Sequential]:
    """Returns G_f, G_y and G_d as modules ``'f'``, ``'y'`` and ``'d'``, in training mode.

    Images are ``[n, 3, pixels, pixels]``, and features are flattened from ``[n, channel, height,
    width]``. A ValueError is raised if the network has no translation, as with batch normalization.
    """
    f = nn.Sequential(*_features(model.feature_extractor))
    with torch.no_grad():
        width = f.eval()(torch.zeros(1, 3, pixels, pixels)).shape[1]
    y = nn.Sequential(*_fully_connected(model.label_predictor, width))
    d = nn.Sequential(*_fully_connected(model.domain_classifier, width))
    return {"f": f.train(), "y": y.train(), "d": d.train()}


def _dropout(rate):
    """Returns a layer of dropout, or none where nothing is dropped."""
    return [nn.Dropout(rate)] if rate else []


def _features(module):
    if isinstance(module, networks.OfficeFeatures) and isinstance(module.backbone, AlexNet):
        return [*_alexnet(module.backbone), nn.Linear(4096, module.bottleneck)]
    if not isinstance(module, networks.ConvolutionalFeatures) or module.statistics is not None:
        raise ValueError(
            "this network has no translation to PyTorch: leave it out, or --against-pytorch"
        )
    layers = _dropout(module.input_dropout_rate)
    channels, same = 3, module.padding == "SAME"
    for layer in module.layers:
        padding = layer.kernel // 2 if same else 0
        layers += [nn.Conv2d(channels, layer.features, layer.kernel, padding=padding), nn.ReLU()]
        if layer.pool is not None:
            # SAME lets the last window of 3 stick out of an even size.
            layers.append(nn.MaxPool2d(layer.pool, 2, ceil_mode=same))
        layers += _dropout(layer.dropout_rate)
        channels = layer.features
    return [*layers, nn.Flatten()]


def _alexnet(module):
    layers, channels = [], 3
    for features, kernel, stride, padding, pooled in (
        (64, 11, 4, 2, True),
        (192, 5, 1, 2, True),
        (384, 3, 1, 1, False),
        (256, 3, 1, 1, False),
        (256, 3, 1, 1, True),
    ):
        layers += [nn.Conv2d(channels, features, kernel, stride, padding), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if pooled else []
        channels = features
    layers.append(nn.Flatten())
    for width in (channels * 6 * 6, 4096):
        layers += [nn.Linear(width, 4096), nn.ReLU(), *_dropout(module.dropout_rate)]
    return layers


def _fully_connected(module, width):
    layers = []
    for units in module.hidden:
        layers += [nn.Linear(width, units), nn.ReLU(), *_dropout(module.dropout_rate)]
        width = units
    return [*layers, nn.Linear(width, module.outputs)]
