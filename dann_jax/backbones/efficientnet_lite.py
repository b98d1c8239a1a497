"""EfficientNet-Lite: small networks of depthwise convolutions, without squeeze and excitation."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from dann_jax.backbones.normalized_convolution import NormalizedConvolution
from dann_jax.backbones.weights import Layer
from dann_jax.networks import Initializer

__all__ = ["LITE0", "LITE1", "LITE2", "EfficientNetLite", "Stage", "layers"]

_EXPANSION = 6  # hidden channels of a block over its input's; the first stage has none
_STEM, _HEAD = 32, 1280


class Stage(NamedTuple):
    """Blocks in a row with the same number of output channels."""

    blocks: int
    side: int  # of the depthwise kernels, pixels
    stride: int  # of the first block
    features: int


LITE0 = (
    Stage(1, 3, 1, 16),
    Stage(2, 3, 2, 24),
    Stage(2, 5, 2, 40),
    Stage(3, 3, 2, 80),
    Stage(3, 5, 1, 112),
    Stage(4, 5, 2, 192),
    Stage(1, 3, 1, 320),
)
LITE1 = tuple(
    stage._replace(blocks=blocks)
    for stage, blocks in zip(LITE0, (1, 3, 3, 4, 4, 5, 1), strict=True)
)
LITE2 = tuple(
    stage._replace(features=features)
    for stage, features in zip(LITE1, (16, 24, 48, 88, 120, 208, 352), strict=True)
)


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite up to the average over all pixels that its classifier takes.

    There is no stochastic depth in training.

    Attributes:
      stages: ``LITE0``, ``LITE1`` or ``LITE2``.
      momentum: Share of the running averages of batch norm that each batch keeps.
      kernel_init: Initializer of the weights.
      dtype: Of the computation; parameters and statistics are float32.

    Source: Tan & Le, EfficientNet (arXiv:1905.11946), in the form published as EfficientNet-Lite.
    """

    stages: tuple[Stage, ...] = LITE0
    momentum: float = 0.9
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        """Returns activations ``[n, 1280]`` of images ``[n, height, width, 3]``."""

        def layer(x, name, features, side, stride=1, activation=nn.relu6, depthwise=False):
            return NormalizedConvolution(
                features,
                side,
                stride,
                depthwise,
                centered=False,
                activation=activation,
                epsilon=1e-3,
                momentum=self.momentum,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                name=name,
            )(x, train=train, axis_name=axis_name)

        x = layer(x, "stem", _STEM, 3, 2)
        for name, stage, stride, expanded in _blocks(self.stages):
            y = layer(x, f"{name}_expand", _EXPANSION * x.shape[-1], 1) if expanded else x
            y = layer(y, f"{name}_depthwise", y.shape[-1], stage.side, stride, depthwise=True)
            y = layer(y, f"{name}_project", stage.features, 1, activation=None)
            x = x + y if x.shape == y.shape else y
        x = layer(x, "head", _HEAD, 1)
        return jnp.mean(x, (1, 2))


def _blocks(stages):
    """Yields the name, stage and stride of each block, and whether it expands its input."""
    number = 0
    for i, stage in enumerate(stages):
        for j in range(stage.blocks):
            yield f"block{number}", stage, stage.stride if j == 0 else 1, i > 0
            number += 1


def layers(stages: tuple[Stage, ...]) -> Iterator[Layer]:
    """Yields the layers of ``EfficientNetLite(stages)`` and their names in state dicts."""
    yield Layer(("stem",), "_conv_stem", "_bn0")
    for i, (name, _, _, expanded) in enumerate(_blocks(stages)):
        if expanded:
            yield Layer((f"{name}_expand",), f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0")
        yield Layer((f"{name}_depthwise",), f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1")
        yield Layer((f"{name}_project",), f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2")
    yield Layer(("head",), "_conv_head", "_bn1")
