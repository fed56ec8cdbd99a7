"""The IsoFLOP method: the least loss at each budget, and the lines through these minima."""
