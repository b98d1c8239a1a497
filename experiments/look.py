"""Draws contact sheets of a pair of domains: python -m experiments.look."""

from experiments.arguments import end
from experiments.figures.look import main

if __name__ == "__main__":
    end(main())
