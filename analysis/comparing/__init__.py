"""Which of several studies, or groups of one table, is better at a target compute, and how sure.

`comparison.compare_arms` is the whole; `analysis.compare` is its command.
"""
