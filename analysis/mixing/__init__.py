"""Which mixture of sources gives the least loss: a law of loss in shares, and its best shares.

`result.mixture` is the whole; `analysis.mixture` is its command.
"""
