"""analysis.evaluation.run."""
