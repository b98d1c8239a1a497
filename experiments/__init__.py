"""Programs that train and measure with dann_jax; nothing imports them."""

import pathlib

# So that ``python -m experiments.curves`` runs figures/curves.py, and likewise for each figure.
__path__.append(str(pathlib.Path(__path__[0], "figures")))
