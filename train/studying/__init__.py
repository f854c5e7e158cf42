"""train.studying."""
