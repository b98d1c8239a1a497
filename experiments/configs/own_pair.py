"""Images of your own: a folder with a sub-folder for each class, and a folder without labels.

Reproduces: nothing; it runs the method on any two folders, resized to squares.
Expect: predictions of the target's images; an accuracy where its images lie in class folders.
Takes: some 7 minutes a key on 2 CPU cores, all methods together (estimated).
Command: python -m experiments.run own_pair --source DIR --target DIR
"""

from experiments.settings import Config

config = Config(
    source="SOURCE",
    target="TARGET",
    classes=None,
    network="mnist_batch_norm",
    steps=3_000,
    batch_size=64,
    mu0=0.03,
    evaluate_every=500,
)
