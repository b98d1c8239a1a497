"""Digits: varied copies of scikit-learn's bundled handwritten digits, 28x28, grey."""
