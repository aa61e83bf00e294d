"""``python -m bilens.cli``, the same as ``bilens``."""

from bilens.cli.process import main

main()
