"""Small images of your own, such as digits: a folder with class folders, and one without labels.

Reproduces: nothing; it trains a small network from scratch on any two folders, resized to squares
of 32 pixels. For photographs there is own_photos.
Expect: predictions of the target's images; an accuracy where its images lie in class folders.
Takes: some 7 minutes a key on 2 CPU cores, all methods together (estimated).
Command: python -m experiments.run own_pair --source DIR --target DIR
"""

from experiments.settings import Config

config = Config(
    source="SOURCE",
    target="TARGET",
    held_out=0.2,
    classes=None,
    network="mnist_batch_norm",
    steps=3_000,
    batch_size=64,
    mu0=0.03,
    evaluate_every=500,
)
