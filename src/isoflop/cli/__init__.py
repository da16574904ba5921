"""The command line: verbs only, loaded lazily; nothing scientific. The grammar is in `isoflop --help`."""

from isoflop.cli.main import main

__all__ = ["main"]
