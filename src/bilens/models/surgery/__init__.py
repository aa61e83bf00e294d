"""Changes to a model: its norms folded into what reads them, which leaves what it computes as it
is, and its MLPs made bilinear, which does not.
"""
