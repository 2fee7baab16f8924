"""Readings in, DataFrames out."""
