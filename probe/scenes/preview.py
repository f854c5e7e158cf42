"""``python -m probe.scenes.preview``, the former name of ``python -m probe.preview``."""

from probe.preview import Settings, cli, main

__all__ = ["Settings", "cli", "main"]

if __name__ == "__main__":
    cli()
