"""The page that lists all runs, and the server that keeps pages fresh."""
