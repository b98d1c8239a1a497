"""Draws the inter-twinning moons: python -m experiments.moons."""

from experiments.figures.moons import main

if __name__ == "__main__":
    raise SystemExit(main())
