"""Train grids of small language models and record what they cost and reach."""

__version__ = "0.1.0"
