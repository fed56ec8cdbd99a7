"""Logs of other tools, read into the table that a fit reads: a module each."""
