"""probe.attention.call."""
