"""Training passes written out for CPUs: numba kernels, hand-made backward passes, decoding."""
