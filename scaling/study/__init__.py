"""The files of a runs folder: leases, records of failures, jobs, curves."""
