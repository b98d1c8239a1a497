"""MNIST: 60,000 and 10,000 handwritten digits, 28x28, grey."""
