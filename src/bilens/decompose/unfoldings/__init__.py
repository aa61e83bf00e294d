"""Singular vectors of a tensor's unfoldings: each mode's own (HOSVD), outputs against input pairs
(SVD), one basis for both inputs (joint).
"""
