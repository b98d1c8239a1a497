"""Draws the inter-twinning moons: python -m experiments.moons."""

from experiments.arguments import end
from experiments.figures.moons import main

if __name__ == "__main__":
    end(main())
