"""Floor 10: the command line, one file a command.

``bilens NAME`` runs ``command`` of ``commands/NAME.py``, which is imported when it is called.
"""

from bilens.cli.process import main

__all__ = ["main"]
