"""The command line. Only the command that runs is imported, so that --help is quick."""

from budmlx.cli.app import main

__all__ = ["main"]
