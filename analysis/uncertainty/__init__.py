"""How sure the parameters are: bootstrap, profile likelihood, intervals."""
