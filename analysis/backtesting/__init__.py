"""Backtests over many tables: our laws against other methods, on runs that were withheld."""
