"""Floor 8: what changed between checkpoints of one run."""

from bilens.changes.comparison import Diff
from bilens.changes.course import Phase, Series
from bilens.changes.diff import diff
from bilens.changes.items import Items
from bilens.changes.losses import Losses

__all__ = ["Diff", "Items", "Losses", "Phase", "Series", "diff"]
