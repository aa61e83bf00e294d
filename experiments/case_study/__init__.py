"""How the second MLP of tinystories-2l makes features of pairs of features: read from weights,
tried on held-out text.
"""
