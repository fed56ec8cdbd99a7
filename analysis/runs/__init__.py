"""Tables of runs: columns, filters, studies of our own."""
