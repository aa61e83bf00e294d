"""Floor 2: spectra. Every result carries what was discarded, its error, and which eigenvalues are degenerate."""

from bilens.decompose.eigen import effective_rank, eigen
from bilens.decompose.hosvd import HOSVD, hosvd

__all__ = ["HOSVD", "effective_rank", "eigen", "hosvd"]
