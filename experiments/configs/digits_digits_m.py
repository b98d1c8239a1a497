"""Handwritten digits to the same blended over photographs: the default that needs no download.

Reproduces: in small, the paper's MNIST -> MNIST-M, from data that scikit-learn ships.
Network: a variant, not the paper's: batch norm with the statistics of each domain, and 512 units
in G_d (``mnist_batch_norm``). All methods use it.
Expect: source-only .52, SA .56, DANN .73, train-on-target .85 (five keys).
Takes: 1 minute a key on 2 CPU cores, all methods together.
Command: python -m experiments.run digits_digits_m --keys 5
"""

from experiments.settings import Config

config = Config(
    source="digits",
    target="digits_m",
    network="mnist_batch_norm",
    image_size=28,
    steps=1_500,
    baseline_steps=750,
    batch_size=64,
    mu0=0.03,
    evaluate_every=250,
)
