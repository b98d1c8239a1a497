"""Convolution, max-pooling and compiler options that are fast on every platform: one door."""

from dann_jax.kernels.compiler import compiler_options, plain_xla
from dann_jax.kernels.convolution import convolve, convolve_depthwise
from dann_jax.kernels.pooling import max_pool

__all__ = ["compiler_options", "convolve", "convolve_depthwise", "max_pool", "plain_xla"]
