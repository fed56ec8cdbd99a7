"""Run the cells of a study: by a pool and its workers on this machine, by jobs on SLURM."""
