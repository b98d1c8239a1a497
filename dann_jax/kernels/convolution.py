"""Convolutions in forms that are fast on every platform.

Values and gradients are those of ``jax.lax.conv_general_dilated``, up to rounding.
"""

import functools
import math
from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax.kernels import winograd
from dann_jax.kernels.compiler import plain_xla
from dann_jax.kernels.padding import check_padding, has_symbolic_sizes, same_padding

__all__ = ["convolve", "convolve_depthwise"]

_CHANNELS = 16  # with fewer, the transforms of Winograd's form cost more than they save
_KERNELS = (3, 5)
_ROWS = 14  # of an image whose products are added up in one expression


def convolve(x: chex.Array, kernel: chex.Array, padding: str = "VALID") -> chex.Array:
    """Returns the convolution (cross-correlation) of images with stride 1.

    On a CPU it is made of matrix products by ``winograd.convolve`` where that is faster (in
    float32, with many channels), and has no forward-mode derivative otherwise.

    Args:
      x: ``[n, height, width, channel]``.
      kernel: ``[rows, columns, channel, features]``, of the type of ``x``.
      padding: ``'VALID'`` or ``'SAME'`` (padded with zeros).

    Returns:
      ``[n, height', width', features]``.

    Raises:
      ValueError: The padding is another, or the kernel is not for images like ``x``.
    """
    check_padding(padding)
    rows, columns, *channels = kernel.shape
    if x.shape[-1] != channels[0] or x.dtype != kernel.dtype:
        raise ValueError(
            f"a kernel of {channels[0]} channels, {kernel.dtype}, for images of {x.shape[-1]}, "
            f"{x.dtype}: make them equal"
        )
    if jax.default_backend() != "cpu" or plain_xla() or has_symbolic_sizes(x):
        return _sum(x, kernel, padding)
    empty = not len(x) or (padding == "VALID" and min(x.shape[1:3]) < max(rows, columns))
    many_channels = rows == columns and rows in _KERNELS and min(channels) >= _CHANNELS
    if many_channels and x.dtype == jnp.float32 and not empty:
        return winograd.convolve(x, kernel, padding)
    return _convolve(x, kernel, padding)


def _sum(x, kernel, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x, kernel, padding):
    return _sum(x, kernel, padding)


def _convolve_forward(x, kernel, padding):
    return _sum(x, kernel, padding), (x, kernel)


def _convolve_backward(padding, saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: _sum(x, kernel, padding), x)(dy)
    # XLA's fast kernels on CPU take this order of axes; inside a loop XLA does not find it.
    pads = [
        same_padding(size, side, 1) if padding == "SAME" else (0, 0)
        for size, side in zip(x.shape[1:3], kernel.shape[:2], strict=True)
    ]
    x, dy = x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3)
    return dx, _sum(x, dy, pads).transpose(1, 2, 0, 3)


_convolve.defvjp(_convolve_forward, _convolve_backward)


def convolve_depthwise(
    x: chex.Array,
    kernel: chex.Array,
    stride: int = 1,
    padding: str | Sequence[tuple[int, int]] = "SAME",
) -> chex.Array:
    """Returns the convolution (cross-correlation) of each channel with a kernel of its own.

    On a CPU it is, in float32, a sum of shifted images, many times faster than XLA's convolution
    of as many groups as channels, and has no forward-mode derivative.

    Args:
      x: ``[n, height, width, channel]``.
      kernel: ``[rows, columns, 1, channel]``, of the type of ``x``.
      stride: Step of the kernel, in pixels.
      padding: ``'VALID'``, ``'SAME'``, or zeros (top, bottom) and (left, right), in pixels.

    Returns:
      ``[n, height', width', channel]``.

    Raises:
      ValueError: The padding is another, or the kernel is not for images like ``x``.
    """
    sides, windows, channels = x.shape[1:3], kernel.shape[:2], x.shape[-1]
    if kernel.shape[2:] != (1, channels) or x.dtype != kernel.dtype:
        raise ValueError(
            f"a kernel {kernel.shape}, {kernel.dtype}, for images of {channels} channels, "
            f"{x.dtype}: expected [rows, columns, 1, {channels}] of the same type"
        )
    if isinstance(padding, str):
        check_padding(padding)
        pads = [(0, 0)] * 2
        if padding == "SAME":
            pads = [same_padding(*pair, stride) for pair in zip(sides, windows, strict=True)]
    else:
        pads = [(before, after) for before, after in padding]
    plain = jax.default_backend() != "cpu" or plain_xla() or has_symbolic_sizes(x)
    if not plain and x.dtype == jnp.float32 and _has_output(x, windows, pads):
        return _depthwise(stride, jnp.pad(x, [(0, 0), *pads, (0, 0)]), kernel[:, :, 0])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
    )


def _has_output(x, windows, pads):
    """Returns whether there are images, and they are at least as large as the kernel."""
    return len(x) and all(
        side + sum(pad) >= window
        for side, pad, window in zip(x.shape[1:3], pads, windows, strict=True)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _depthwise(stride, x, kernel):
    return _shifted(stride, x, kernel)


def _shifted(stride, x, kernel):
    x = jax.lax.optimization_barrier(x)  # padding within the sum would be done for each term
    rows = (x.shape[1] - len(kernel)) // stride + 1
    columns = (x.shape[2] - kernel.shape[1]) // stride + 1
    return sum(
        _every(_every(x, 1, i, rows, stride), 2, j, columns, stride)
        * kernel[i, j].reshape(1, 1, 1, -1)
        for i, j in np.ndindex(kernel.shape[:2])
    )


def _every(x, axis, first, count, stride):
    """Returns ``count`` slices along an axis, ``stride`` apart."""
    return jax.lax.slice_in_dim(x, first, first + (count - 1) * stride + 1, stride, axis)


def _depthwise_forward(stride, x, kernel):
    return _shifted(stride, x, kernel), (x, kernel)


def _depthwise_backward(stride, saved, dy):
    x, kernel = saved
    (dx,) = jax.linear_transpose(lambda x: _shifted(stride, x, kernel), x)(dy)
    return dx, _depthwise_kernel_gradient(stride, x, dy, kernel.shape[:2])


def _depthwise_kernel_gradient(stride, x, dy, windows):
    """Returns the gradient of the kernel, [rows, columns, channel].

    XLA does not vectorize sums over all but the last axis. So this adds up some rows of one image
    at a time, as vectors [width, channel], one for each entry of the kernel.
    """
    images, height, width, channels = dy.shape
    blocks = -(-height // _ROWS)
    rows = -(-height // blocks)
    high = stride * (rows - 1) + windows[0]  # of the part of x that a block takes
    below = max(stride * rows * (blocks - 1) + high - x.shape[1], 0)
    x = jnp.pad(x, [(0, 0), (0, below), (0, 0), (0, 0)])
    dy = jnp.pad(dy, [(0, 0), (0, rows * blocks - height), (0, 0), (0, 0)])

    def add(number, sums):
        image, block = number // blocks, number % blocks
        at = image, stride * rows * block, 0, 0
        (part,) = jax.lax.dynamic_slice(x, at, (1, high, *x.shape[2:]))
        (dpart,) = jax.lax.dynamic_slice(dy, (image, rows * block, 0, 0), (1, rows, *dy.shape[2:]))
        products = (
            sum(
                _every(part[stride * row + i], 0, j, width, stride) * dpart[row]
                for row in range(rows)
            )
            for i, j in np.ndindex(windows)
        )
        return [a + b for a, b in zip(sums, products, strict=True)]

    zeros = [jnp.zeros([width, channels], dy.dtype)] * math.prod(windows)
    sums = jax.lax.fori_loop(0, images * blocks, add, zeros)
    return jnp.stack([total.sum(0) for total in sums]).reshape(*windows, channels)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)
