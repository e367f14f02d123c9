"""Sizes of responses and of their changes against width and depth: the result, what it says, how it is drawn."""
