"""Draws contact sheets of a pair of domains: python -m experiments.look."""

import sys

from experiments.figures.look import main

if __name__ == "__main__":
    sys.exit(main())
