"""MNIST to MNIST-M: the first experiment of the paper, with the paper's network.

Reproduces: the column MNIST -> MNIST-M of the paper's Table 1.
"""

from experiments.config import Config

config = Config(source="mnist", target="mnist_m", steps=20_000)
