"""Office-31, amazon to dslr, the paper's recipe: AlexNet with a bottleneck, fully transductive.

Reproduces: no figure of the paper, which prints three of the six directions.
Needs: ImageNet weights of AlexNet in torchvision's layout (docs/backbones.md).
Expect: not yet measured.
Takes: for a GPU; a step takes some 5 seconds on 2 CPU cores (estimated).
Command: python -m experiments.run office31_amazon_dslr --keys 5 --weights FILE --manual-dir DIR
"""

from experiments.config import office31

config = office31("amazon", "dslr")
