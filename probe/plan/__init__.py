"""probe.plan."""
