"""Office-31: 31 classes of office objects in three domains, 256x256, colour."""
