"""Synthetic numbers to street-view house numbers, with the paper's network.

Reproduces: the column SYN NUMBERS -> SVHN of the paper's Table 1.
Unstated in the paper: as in mnist_mnist_m, but for the weights, which are LeCun-normal: with this
dropout He-normal ones do not learn (docs/recipe.md). It leaves chance after 550 to 700
updates of 4,000.
Expect: source-only .877, DANN .872 (three keys). After 4,000 updates (--steps 4000, one
    key), in which lambda is at .6 to .7 when the network leaves chance, source-only .819, SA .816,
    DANN .818, train-on-target .878.
Takes: some 6 hours a key on 2 CPU cores, all methods together (a fifth of it was measured);
    a minute a key for each method on an NVIDIA H200.
Command: python -m experiments.run syn_numbers_svhn --keys 5 --manual-dir DIR
"""

from experiments.settings import Config

config = Config(
    source="syn_numbers",
    target="svhn",
    network="svhn",
    input_scale=128.0,
    domain_weight=0.3,
    steps=20_000,
    evaluate_every=2_000,
)
