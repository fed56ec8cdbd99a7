"""Published tables of training runs: where they lie, how they are fetched and converted."""
