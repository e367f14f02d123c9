"""Sizes of responses and of their changes against width and depth: result, findings and figure."""
