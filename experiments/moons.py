"""Draws the inter-twinning moons: python -m experiments.moons."""

import sys

from experiments.figures.moons import main

if __name__ == "__main__":
    sys.exit(main())
