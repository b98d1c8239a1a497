"""Draws learning curves: python -m experiments.curves, see ``figures/curves.py``."""

import sys

from experiments.figures.curves import main

if __name__ == "__main__":
    sys.exit(main())
