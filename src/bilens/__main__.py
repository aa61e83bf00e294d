"""``python -m bilens``, the same as ``bilens``."""

from bilens.cli import main

main()
