"""Attention by head and layer: the request and its measurement."""
