"""Draws learning curves: python -m experiments.curves."""

from experiments.arguments import end
from experiments.figures.curves import main

if __name__ == "__main__":
    end(main())
