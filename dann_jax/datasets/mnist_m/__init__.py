"""MNIST-M: MNIST digits blended over photographs of BSDS500, 32x32, colour."""
