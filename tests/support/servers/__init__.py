"""Servers of models, real and pretended."""
