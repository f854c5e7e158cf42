"""analysis.probing."""
