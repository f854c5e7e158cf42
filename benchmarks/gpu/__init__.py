"""What is run where there is a GPU."""
