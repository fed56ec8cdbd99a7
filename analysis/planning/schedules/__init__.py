"""A plan whose schedule of the learning rate is not that of its study."""
