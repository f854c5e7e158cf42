"""Figures and tables of pages as files for papers and slides."""
