"""Office-31, dslr to webcam: AlexNet with a bottleneck, fully transductive.

Reproduces: the column DSLR -> WEBCAM of the paper's Table 2. The
paper starts from ImageNet weights and trains new layers ten times as fast; this starts from
random weights and has one learning rate.
Expect: not yet measured.
Takes: for a GPU; a step takes some 5 seconds on 2 CPU cores (estimated).
Command: python -m experiments.run office31_dslr_webcam --keys 5 --manual-dir DIR
"""

from experiments.config import office31

config = office31("dslr", "webcam")
