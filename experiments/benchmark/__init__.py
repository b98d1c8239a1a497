"""The speed of training on this machine: python -m experiments.benchmark."""
