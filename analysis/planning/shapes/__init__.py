"""The shape of the planned model: width, depth and heads for a number of parameters."""
