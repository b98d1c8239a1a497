"""House numbers to handwritten digits with batch norm: a variant of svhn_mnist.

Reproduces: the column SVHN -> MNIST of the paper's Table 1, with another network.
Network: not the paper's: batch norm, whose statistics are those of each domain, stands in
place of G_f's dropout and of max-norm (``svhn_batch_norm``). All methods use it.
Chosen without a look at this pair's target: all else is as in svhn_mnist.
Expect: not yet measured.
Takes: some 8 hours a key on 2 CPU cores, all methods together (estimated).
Command: python -m experiments.run svhn_mnist_batch_norm --keys 5 --manual-dir DIR
"""

from experiments.config import Config

config = Config(
    source="svhn",
    target="mnist",
    network="svhn_batch_norm",
    input_scale=128.0,
    domain_weight=0.3,
    steps=20_000,
    alpha=0.0,
    evaluate_every=2_000,
)
