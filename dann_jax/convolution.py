"""Convolution and max-pooling in forms that are fast on every platform.

Their values are those of ``jax.lax.conv_general_dilated`` and ``flax.linen.max_pool``, and so are
their gradients, up to rounding.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from dann_jax import compilation, winograd

__all__ = ["convolve", "convolve_depthwise", "max_pool"]

_CHANNELS = 16  # with fewer, the transforms of Winograd's form cost more than it spares
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
    _check_padding(padding)
    rows, columns, *channels = kernel.shape
    if x.shape[-1] != channels[0] or x.dtype != kernel.dtype:
        raise ValueError(
            f"a kernel of {channels[0]} channels, {kernel.dtype}, for images of {x.shape[-1]}, "
            f"{x.dtype}: make them equal"
        )
    if jax.default_backend() != "cpu" or compilation.plain():
        return _sum(x, kernel, padding)
    nothing = not len(x) or (padding == "VALID" and min(x.shape[1:3]) < max(rows, columns))
    many = rows == columns and rows in _KERNELS and min(channels) >= _CHANNELS
    if many and x.dtype == jnp.float32 and not nothing:
        return winograd.convolve(x, kernel, padding)
    return _convolve(x, kernel, padding)


def _check_padding(padding):
    if padding not in ("VALID", "SAME"):
        raise ValueError(f"unknown padding {padding!r}: expected 'VALID' or 'SAME'")


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
    # The order of axes that XLA's kernels on CPU take, which inside a loop it does not find.
    pads = [
        _same_padding(size, side, 1) if padding == "SAME" else (0, 0)
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
        _check_padding(padding)
        pads = [(0, 0)] * 2
        if padding == "SAME":
            pads = [_same_padding(*pair, stride) for pair in zip(sides, windows, strict=True)]
    else:
        pads = [tuple(pair) for pair in padding]
    some = len(x) and all(
        side + sum(pad) >= window for side, pad, window in zip(sides, pads, windows, strict=True)
    )
    cpu = jax.default_backend() == "cpu" and not compilation.plain()
    if cpu and some and x.dtype == jnp.float32:
        return _depthwise(stride, jnp.pad(x, [(0, 0), *pads, (0, 0)]), kernel[:, :, 0])
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        pads,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=channels,
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

    XLA's sums over all but the last axis are not vectorised. So some rows of one image at a time
    are added up as vectors [width, channel], one for each entry of the kernel.
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


def max_pool(x: chex.Array, window: int, stride: int = 2, padding: str = "VALID") -> chex.Array:
    """Returns the maximum over square windows.

    Where several entries of a window are equal and largest, the first (row by row) gets the
    gradient, as in ``flax.linen.max_pool`` and PyTorch. There is no forward-mode derivative.

    Args:
      x: ``[n, height, width, channel]``, floating point.
      window: Side of the window, in pixels.
      stride: Step of the window, in pixels.
      padding: ``'VALID'`` or ``'SAME'`` (padded with minus infinity).

    Returns:
      Pooled ``x``: ``[n, rows, columns, channel]``.

    Raises:
      ValueError: The padding is another, or ``x`` holds integers.
    """
    _check_padding(padding)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"expected floating-point values to pool, got {x.dtype}: convert them")
    if compilation.plain():
        return nn.max_pool(x, (window, window), (stride, stride), padding)
    pads = [(0, 0), (0, 0)]
    if padding == "SAME":
        pads = [_same_padding(size, window, stride) for size in x.shape[1:3]]
    rows, columns = (
        (size + sum(pad) - window) // stride + 1
        for size, pad in zip(x.shape[1:3], pads, strict=True)
    )
    return _max_pool(
        _Windows(*x.shape[1:3], rows, columns, *(pad[0] for pad in pads), window, stride), x
    )


def _same_padding(size, window, stride):
    total = max((-(-size // stride) - 1) * stride + window - size, 0)
    return total // 2, total - total // 2


class _Windows(NamedTuple):
    """Where the windows of a max-pooling lie."""

    height: int  # of the input, pixels
    width: int
    rows: int  # of the output
    columns: int
    top: int  # padding of the input, pixels
    left: int
    window: int
    stride: int

    @property
    def reach(self):
        """How many strides a window goes beyond its own."""
        return (self.window - 1) // self.stride

    @property
    def covered(self):
        """Height and width of all windows, as a multiple of the stride, pixels."""
        return tuple((n + self.reach) * self.stride for n in (self.rows, self.columns))

    @property
    def entries(self):
        """Offsets of a window's entries, row by row: (strides, pixels) down, then across."""
        offsets = [divmod(i, self.stride) for i in range(self.window)]
        return [(*down, *across) for down in offsets for across in offsets]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _max_pool(windows, x):
    return functools.reduce(jnp.maximum, _slices(windows, x))


def _slices(windows, x):
    """Returns the first entries of all windows, the second, ...: each [n, rows, columns, c]."""
    height, width = windows.covered
    x = jax.lax.pad(
        x,
        jnp.asarray(-jnp.inf, x.dtype),
        [
            (0, 0, 0),
            (windows.top, height - windows.height - windows.top, 0),
            (windows.left, width - windows.width - windows.left, 0),
            (0, 0, 0),
        ],
    )
    # Pixels of one stride on axes of their own, so that no slice has to be strided.
    s, (n, *_, channels) = windows.stride, x.shape
    x = x.reshape(n, height // s, s, width // s, s, channels)
    return [
        x[:, i : i + windows.rows, a, j : j + windows.columns, b] for i, a, j, b in windows.entries
    ]


def _max_pool_forward(windows, x):
    slices = _slices(windows, x)
    y = functools.reduce(jnp.maximum, slices)
    last = len(slices) - 1
    first = jnp.full(y.shape, last, jnp.uint8 if last < 255 else jnp.int32)
    for number in reversed(range(last)):
        first = jnp.where(slices[number] == y, first.dtype.type(number), first)
    return y, first


def _max_pool_backward(windows, first, dy):
    s, reach = windows.stride, windows.reach
    beside = ((0, 0), (reach, reach), (reach, reach), (0, 0))
    first, dy = jnp.pad(first, beside), jnp.pad(dy, beside)  # what is beside has no gradient
    rows, columns = (size // s for size in windows.covered)

    def pixel(a, b):
        """Returns the gradient of the pixels at (a, b) of each stride."""
        gradient = jnp.zeros((len(dy), rows, columns, dy.shape[-1]), dy.dtype)
        for number, (i, to_a, j, to_b) in enumerate(windows.entries):
            if (to_a, to_b) == (a, b):
                at = (
                    slice(None),
                    slice(reach - i, reach - i + rows),
                    slice(reach - j, reach - j + columns),
                )
                gradient += jnp.where(first[at] == number, dy[at], 0)
        return gradient

    dx = jnp.stack([jnp.stack([pixel(a, b) for b in range(s)], 3) for a in range(s)], 2)
    dx = dx.reshape(len(dy), rows * s, columns * s, dy.shape[-1])
    sides = [
        (-windows.top, windows.height + windows.top - rows * s, 0),
        (-windows.left, windows.width + windows.left - columns * s, 0),
    ]
    zero = jnp.zeros([], dx.dtype)
    return (jax.lax.pad(dx, zero, [(0, 0, 0), *sides, (0, 0, 0)]),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
