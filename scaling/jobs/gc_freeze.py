"""The last import of the pool's server: the garbage collector passes over all modules before it.

In a forked cell the collector would walk torch's half million objects and so copy their pages,
which took a quarter of a second of every cell. A cell is forked with SIGUSR2 and SIGTERM blocked
until scaling.jobs.worker has handlers for them: a signal before that would be lost.
"""

import gc
import signal

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGTERM])
gc.collect()
gc.freeze()
