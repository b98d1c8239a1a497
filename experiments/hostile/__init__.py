"""Damage of every kind: python -m experiments.hostile (docs/hostile.md)."""
