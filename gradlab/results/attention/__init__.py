"""Attention by head and layer: result, findings and figure."""
