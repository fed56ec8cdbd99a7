"""The loss over size, data and settings: which rows enter, the valley, the law."""
