"""From a law and a budget to the plan of the final run."""
