"""``python -m bilens.cli``, the same as ``bilens``."""

from bilens.cli.commands import main

main()
