"""Floor 3: spectra, unfoldings, entries, similarity. Every result says what it left out, its error,
and which eigenvalues are degenerate.
"""

from bilens.base.chunks import Chunks, Share
from bilens.decompose.entries.top_entries import TopEntries, top_entries
from bilens.decompose.entries.top_pairs import PairKind, top_pairs
from bilens.decompose.similarity import Sampled, Similarities, similarity
from bilens.decompose.spectra.angles import Angles, angles
from bilens.decompose.spectra.eigen import effective_rank, eigen
from bilens.decompose.spectra.solvers import Auto, Dense, Lanczos
from bilens.decompose.spectra.tail import Tail, tail
from bilens.decompose.spectra.weighted import OnData, WeightedEigen
from bilens.decompose.unfoldings.hosvd import HOSVD, hosvd
from bilens.decompose.unfoldings.joint import Joint, joint
from bilens.decompose.unfoldings.svd import SVD, svd

__all__ = [
    "HOSVD",
    "SVD",
    "Angles",
    "Auto",
    "Chunks",
    "Dense",
    "Joint",
    "Lanczos",
    "OnData",
    "PairKind",
    "Sampled",
    "Share",
    "Similarities",
    "Tail",
    "TopEntries",
    "WeightedEigen",
    "angles",
    "effective_rank",
    "eigen",
    "hosvd",
    "joint",
    "similarity",
    "svd",
    "tail",
    "top_entries",
    "top_pairs",
]
