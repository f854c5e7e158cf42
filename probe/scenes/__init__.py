"""Data sets: one file each, all giving Views."""
