"""A study: variants of the training, and their runs over seeds."""
