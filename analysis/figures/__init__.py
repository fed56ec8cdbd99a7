"""Figures: the canvas, the kinds of chart, bands of laws."""
