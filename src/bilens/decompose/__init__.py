"""Floor 2: spectra. Every result carries what was discarded, its error, and which eigenvalues are degenerate."""

from bilens.decompose.eigen import effective_rank, eigen
from bilens.decompose.hosvd import HOSVD, hosvd
from bilens.decompose.tail import Tail, tail
from bilens.decompose.top_entries import TopEntries, top_entries

__all__ = ["HOSVD", "Tail", "TopEntries", "effective_rank", "eigen", "hosvd", "tail", "top_entries"]
