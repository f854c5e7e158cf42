"""probe.models.parts."""
