"""The match explorer of a probe run's page."""
