"""Eigenvectors of interaction matrices: by Lanczos or dense, plain and under a data measure; the
angles between two layers' spectra; what a few eigenvectors leave out.
"""
