"""Which cells to train next so that a law's optimum is known well enough."""
