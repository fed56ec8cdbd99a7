"""Training examples of the later stages: pairs, rankings, docstrings, the gold judge."""
