"""Running the cells of a study: pool and workers on this machine, jobs on SLURM."""
