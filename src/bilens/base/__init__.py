"""Floor 0: what every room needs. Axis names, errors, numerics, records and results; no mathematics
of its own.
"""
