"""probe.measure."""
