"""Floor 7: models held against what bilens claims of them."""

from bilens.checks.truncation import Truncation, truncate
from bilens.checks.verify import Verification, verify

__all__ = ["Truncation", "Verification", "truncate", "verify"]
