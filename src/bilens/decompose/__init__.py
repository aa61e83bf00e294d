"""Floor 2: spectra. Every result carries what was discarded, its error, and which eigenvalues are
degenerate.
"""

from bilens.base.chunks import Share
from bilens.decompose.angles import Angles, angles
from bilens.decompose.eigen import effective_rank, eigen
from bilens.decompose.hosvd import HOSVD, hosvd
from bilens.decompose.joint import Joint, joint
from bilens.decompose.similarity import Sampled, Similarities, similarity
from bilens.decompose.svd import SVD, svd
from bilens.decompose.tail import Tail, tail
from bilens.decompose.top_entries import TopEntries, top_entries
from bilens.decompose.weighted import OnData, WeightedEigen

__all__ = [
    "HOSVD",
    "SVD",
    "Angles",
    "Joint",
    "OnData",
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
]
