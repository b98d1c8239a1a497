"""Digits-M: such copies blended over scikit-learn's bundled photographs, 28x28, colour."""
