"""probe.scenes.formats."""
