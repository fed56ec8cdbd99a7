"""The transformer: blocks, experts, loss, parametrization, adapters, quantisation."""
