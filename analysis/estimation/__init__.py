"""From a table to a law: parametric fits, IsoFLOP, envelope, power laws, backtest."""
