"""Office-31, amazon to webcam, the paper's recipe: AlexNet with a bottleneck, fully transductive.

Reproduces: the column AMAZON -> WEBCAM of the paper's Table 2.
Needs: ImageNet weights of AlexNet in torchvision's layout (docs/backbones.md).
Expect: not yet measured.
Takes: for a GPU; a step takes some 5 seconds on 2 CPU cores (estimated).
Command: python -m experiments.run office31_amazon_webcam --keys 5 --weights FILE --manual-dir DIR
"""

from experiments.config import office31

config = office31("amazon", "webcam")
