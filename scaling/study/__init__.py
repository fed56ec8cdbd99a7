"""What a runs folder holds: leases, failures, jobs, curves."""
