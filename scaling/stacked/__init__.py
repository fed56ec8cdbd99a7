"""Several small cells trained in one process, their matrices stacked."""
