"""Draws learning curves: python -m experiments.curves."""

from experiments.figures.curves import main

if __name__ == "__main__":
    raise SystemExit(main())
