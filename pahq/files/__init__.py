"""Whole files or none."""
