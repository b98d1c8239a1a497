"""Synthetic numbers to street-view house numbers with batch norm: a variant of syn_numbers_svhn.

Reproduces: the column SYN NUMBERS -> SVHN of the paper's Table 1, with another network.
Network: not the paper's: batch norm, whose statistics are those of each domain, stands in
place of G_f's dropout and of max-norm (``svhn_batch_norm``). All methods use it.
Chosen without a look at this pair's target: all else is as in syn_numbers_svhn.
Expect: not yet measured at this length; source-only .818, DANN .817 after 1,500 updates (one key).
Takes: some 6 hours a key on 2 CPU cores, all methods together (a twentieth of it was measured).
Command: python -m experiments.run syn_numbers_svhn_batch_norm --keys 5 --manual-dir DIR
"""

import dataclasses

from experiments.configs import syn_numbers_svhn

config = dataclasses.replace(syn_numbers_svhn.config, network="svhn_batch_norm")
