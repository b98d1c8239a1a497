"""Draws features of both domains by t-SNE: python -m experiments.embed."""

from experiments.arguments import end
from experiments.figures.embed import main

if __name__ == "__main__":
    end(main())
