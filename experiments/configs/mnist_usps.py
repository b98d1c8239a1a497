"""MNIST to USPS: from one set of handwritten digits to another.

Reproduces: the pair that the field's later papers report; the paper has no figure of it.
Protocol: all training images of both, without USPS's labels, and all test images of USPS. Its 16x16
pixels are resized to MNIST's 28x28 (bilinear), as French et al. (2018) do; MNIST stays as it is.
Network: not the paper's: batch norm, whose statistics are those of each domain, and 512 units in
G_d (``mnist_batch_norm``). All methods use it.
Chosen without a look at this pair: all else is as in mnist_mnist_m_batch_norm.
Expect: source-only .678, SA .785, DANN .854, train-on-target .963 (five keys). Published re-runs of
    DANN stand between .80 and .93.
Takes: some 25 minutes a key on 2 CPU cores, all methods together (estimated).
Command: python -m experiments.run mnist_usps --keys 5 --manual-dir DIR
"""

import dataclasses

from experiments.configs import mnist_mnist_m_batch_norm

config = dataclasses.replace(
    mnist_mnist_m_batch_norm.config,
    source="mnist",
    target="usps",
    image_size=28,
    resize=True,
)
