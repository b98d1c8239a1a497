"""USPS to MNIST: the other direction of mnist_usps.

Reproduces: the pair that the field's later papers report; the paper has no figure of it.
Protocol, network and settings: those of mnist_usps. All 7,291 training images of USPS are the
source; MNIST's 60,000, without labels, are the target, and its 10,000 test images are tested on.
Expect: source-only .610, SA .737, DANN .851, train-on-target .992 (five keys). Published re-runs of
    DANN stand between .87 and .96.
Takes: some 25 minutes a key on 2 CPU cores, all methods together (estimated).
Command: python -m experiments.run usps_mnist --keys 5 --manual-dir DIR
"""

import dataclasses

from experiments.configs import mnist_usps

config = dataclasses.replace(mnist_usps.config, source="usps", target="mnist")
