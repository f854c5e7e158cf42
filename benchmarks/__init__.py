"""Measurements: each file is a command."""
