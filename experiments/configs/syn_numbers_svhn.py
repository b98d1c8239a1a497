"""Synthetic numbers to street-view house numbers, with the paper's network.

Reproduces: the column SYN NUMBERS -> SVHN of the paper's Table 1.
Unstated in the paper: as in mnist_mnist_m, but for the weights, which are LeCun-normal: with this
dropout He-normal ones do not learn (docs/recipe.md). It leaves chance after some 250 updates.
Expect: not yet measured at this length; source-only .82 after 2,000 steps without dropout.
Takes: some 8 hours a key on 2 CPU cores, all methods together (estimated).
Command: python -m experiments.run syn_numbers_svhn --keys 5 --manual-dir DIR
"""

from experiments.config import Config

config = Config(
    source="syn_numbers",
    target="svhn",
    network="svhn",
    input_scale=128.0,
    domain_weight=0.3,
    steps=20_000,
    evaluate_every=2_000,
)
