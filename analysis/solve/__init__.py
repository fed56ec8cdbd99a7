"""The optimisation problem: predictions, objective, solver, noise."""
