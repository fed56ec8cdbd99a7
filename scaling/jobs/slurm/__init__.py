"""Everything that talks to SLURM: submission through submitit, queries, the code's copy."""
