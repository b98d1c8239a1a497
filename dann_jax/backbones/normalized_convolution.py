"""The layer of residual networks: convolution, batch norm, activation."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from dann_jax.kernels import convolve, convolve_depthwise
from dann_jax.networks import Initializer

__all__ = ["NormalizedConvolution"]


class NormalizedConvolution(nn.Module):
    """A convolution without bias, batch normalization, and an activation.

    Batch statistics are taken over the whole batch, source and target together.

    Attributes:
      features: Number of output channels.
      side: Of the kernel, in pixels; odd.
      stride: Step of the kernel, in pixels.
      depthwise: Whether each channel has a kernel of its own; ``features`` is that of the input.
      centered: Whether an output lies at the centre of its kernel, as PyTorch pads; otherwise the
        padding is TensorFlow's ``'SAME'``. They differ for strides above 1 only.
      activation: Function of the normalized outputs, or None.
      epsilon: Added to the variance.
      momentum: Share of the running averages that each batch keeps.
      kernel_init: Initializer of the weights.
      dtype: Of the computation; parameters and statistics are float32.
    """

    features: int
    side: int
    stride: int = 1
    depthwise: bool = False
    centered: bool = True
    activation: Callable[[jax.Array], jax.Array] | None = nn.relu
    epsilon: float = 1e-5
    momentum: float = 0.9
    kernel_init: Initializer = nn.initializers.he_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, *, train=False, axis_name=None):
        """Returns ``[n, height / stride, width / stride, features]``, sizes rounded up."""
        channels = 1 if self.depthwise else x.shape[-1]
        shape = self.side, self.side, channels, self.features
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32).astype(self.dtype)
        x = self._convolve(x.astype(self.dtype), kernel)
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            axis_name=axis_name,
            dtype=self.dtype,
            name="norm",
        )(x)
        return x if self.activation is None else self.activation(x)

    def _convolve(self, x, kernel):
        beside = self.side // 2
        pads = [(beside, beside)] * 2 if self.centered and self.stride > 1 else "SAME"
        if self.depthwise:
            return convolve_depthwise(x, kernel, self.stride, pads)
        if self.side == 1:
            return jnp.tensordot(x[:, :: self.stride, :: self.stride], kernel[0, 0], 1)
        if self.stride == 1:
            return convolve(x, kernel, "SAME")
        return jax.lax.conv_general_dilated(
            x, kernel, [self.stride] * 2, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
