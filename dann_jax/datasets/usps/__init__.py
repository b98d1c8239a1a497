"""USPS: 7,291 and 2,007 handwritten digits of postcodes, 16x16, grey."""
