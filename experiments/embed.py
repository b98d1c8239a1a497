"""Draws features of both domains by t-SNE: python -m experiments.embed."""

import sys

from experiments.figures.embed import main

if __name__ == "__main__":
    sys.exit(main())
