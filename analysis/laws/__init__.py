"""A fitted law: its file, its predictions and optimum, published laws."""
