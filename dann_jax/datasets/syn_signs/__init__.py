"""SYN SIGNS: the 43 traffic signs of GTSRB, drawn and rendered here, 40x40, colour."""
