"""Synthetic to real traffic signs, with the paper's network.

Reproduces: the column SYN SIGNS -> GTSRB of the paper's Table 1.
Unstated in the paper: as in mnist_mnist_m (docs/recipe.md).
Expect: source-only .940, DANN .919 (three keys); after 2,500 updates (--steps 2500, one key)
    source-only .908, SA .844, DANN .900, train-on-target .994.
Takes: some 2 hours 45 minutes a key on 2 CPU cores, all methods together (an eighth was measured);
    under a minute a key for each method on an NVIDIA H200.
Command: python -m experiments.run syn_signs_gtsrb --keys 5 --manual-dir DIR
"""

from experiments.settings import Config

config = Config(
    source="syn_signs",
    target="gtsrb",
    classes=43,
    network="gtsrb",
    image_size=40,
    input_scale=128.0,
    domain_weight=0.3,
    steps=20_000,
    evaluate_every=2_000,
)
