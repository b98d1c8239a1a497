"""The published SYN NUMBERS to street-view house numbers, with the paper's network.

Reproduces: the column SYN NUMBERS -> SVHN of the paper's Table 1, with the paper's own source. Its
files are 913 MB; syn_numbers_svhn needs none of them, since it draws its source.
Settings: those of syn_numbers_svhn.
Expect: not yet measured. The paper has source-only .8674, DANN .9109.
Takes: some 6 hours a key on 2 CPU cores, all methods together (as syn_numbers_svhn).
Command: python -m experiments.run syn_numbers_published_svhn --keys 5 --manual-dir DIR
"""

import dataclasses

from experiments.configs import syn_numbers_svhn

config = dataclasses.replace(syn_numbers_svhn.config, source="syn_numbers_published")
