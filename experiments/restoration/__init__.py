"""Restoring pictures: what is measured of them, the methods, and how well a run that was trained for it does."""
