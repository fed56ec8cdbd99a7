"""SLURM: submission through submitit, queries, and the copy of the code that jobs run."""
