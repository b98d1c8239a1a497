"""Figures, a module each: ``python -m experiments.curves``, ``embed``, ``look`` and ``moons``."""
