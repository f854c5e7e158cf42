"""analysis.study.run."""
