"""What editing and patching layers changes, on the page of a probe run."""
