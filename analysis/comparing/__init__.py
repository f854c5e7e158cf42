"""analysis.comparing."""
