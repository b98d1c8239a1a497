"""Draws learning curves: python -m experiments.curves."""

import sys

from experiments.figures.curves import main

if __name__ == "__main__":
    sys.exit(main())
