"""A folder of images of the user's own, with a sub-folder for each class."""
