"""Handwritten digits to the same blended over photographs: the default that needs no download.

Reproduces: in small, the paper's MNIST -> MNIST-M, from data that scikit-learn ships.
"""

from experiments.config import Config

config = Config(
    source="digits",
    target="digits_m",
    network="mnist_batch_norm",
    image_size=28,
    steps=1_500,
    baseline_steps=500,
    batch_size=64,
    mu0=0.03,
    evaluate_every=250,
)
