"""Floor 6: the commands. Nothing heavy is imported before a command needs it, so that ``--help`` is
instant.
"""

from bilens.cli.commands import main

__all__ = ["main"]
