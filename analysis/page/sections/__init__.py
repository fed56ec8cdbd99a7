"""Sections of the report: the plan, cells, later stages, scores on tasks."""
