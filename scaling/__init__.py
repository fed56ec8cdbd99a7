"""Train grids of small language models and record what they cost and reach."""

__version__ = "0.1.0"
VERSION_LINE = f"scaling-laws {__version__}"  # what --version prints
