"""Train grids of small language models and record what they cost and reach."""

__version__ = "0.2.0.dev0"
VERSION_LINE = f"scaling-laws {__version__}"  # what --version prints
