"""Preloaded last by the pool's server: what is imported by then is never collected again.

A forked cell whose garbage collector walks torch's half million objects copies their pages first,
which took a quarter of a second of every cell. A cell is forked with the signals that mean `save`
held back, until scaling.jobs.worker hears them: one that came before would be lost.
"""

import gc
import signal

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])
gc.collect()
gc.freeze()
