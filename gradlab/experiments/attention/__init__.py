"""Attention by head and layer: what is asked for, and how it is measured."""
