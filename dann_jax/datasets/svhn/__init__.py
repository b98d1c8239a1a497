"""SVHN: 73,257 and 26,032 cropped digits of house numbers, 32x32, colour."""
