"""SYN NUMBERS as published: 479,400 and 9,553 synthetic house numbers, 32x32, colour."""
