#!/bin/bash
# Ten workers on one study, for `qsub pbs.sh` (PBS); LSF and others differ in the head alone. Start it in the folder of the sweep.
#PBS -N scaling-workers
#PBS -J 1-10
#PBS -l select=1:ncpus=4:mem=8gb
#PBS -l walltime=04:00:00
cd "$PBS_O_WORKDIR" || exit 1
exec scaling work runs/mine --workers 4
