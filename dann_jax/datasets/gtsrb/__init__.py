"""GTSRB: 39,209 photographs of 43 German traffic signs, 40x40, colour."""
