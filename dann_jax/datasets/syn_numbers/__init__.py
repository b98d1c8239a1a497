"""SYN NUMBERS: synthetic house numbers, 32x32, colour."""
