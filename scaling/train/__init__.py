"""The training of one trunk and its branches, on one device or by several ranks."""
