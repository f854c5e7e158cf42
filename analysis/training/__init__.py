"""analysis.training.run."""
