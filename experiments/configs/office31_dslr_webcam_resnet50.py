"""Office-31, dslr to webcam, today's recipe: ResNet-50 and batch norm.

Reproduces: the column DSLR -> WEBCAM of the paper's Table 2, by a newer network.
Needs: ImageNet weights of ResNet-50 in torchvision's layout (docs/backbones.md). Another backbone
is an option: --backbone efficientnet_lite0 needs no file where its package is installed.
Expect: not yet measured.
Takes: for a GPU.
Command: python -m experiments.run office31_dslr_webcam_resnet50 --keys 5 --weights FILE
    --manual-dir DIR
"""

from experiments.config import office31_batch_norm

config = office31_batch_norm("dslr", "webcam")
