"""Sections of the report about tasks and later stages."""
