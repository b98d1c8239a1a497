"""MNIST to MNIST-M: the first experiment of the paper, with the paper's network.

Reproduces: the column MNIST -> MNIST-M of the paper's Table 1.
Unstated in the paper and settled by measurement (docs/recipe.md): He-normal initialization,
pixels divided by 128 after mean subtraction, one mean for L_d with weight 0.3, the steps.
Expect: source-only .563, SA .570, DANN .789, train-on-target .963 (three keys).
Takes: some 30 minutes a key on 2 idle CPU cores, all methods together; DANN's 46 in the file were
    measured on busy ones.
Command: python -m experiments.run mnist_mnist_m --keys 5 --manual-dir DIR
"""

from experiments.settings import Config

config = Config(
    source="mnist",
    target="mnist_m",
    input_scale=128.0,
    domain_weight=0.3,
    steps=30_000,
    baseline_steps=10_000,
    evaluate_every=2_000,
)
