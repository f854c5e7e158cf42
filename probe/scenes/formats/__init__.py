"""Data sets of real scenes, one file each: ``find_recordings`` turns a folder into its recordings."""
