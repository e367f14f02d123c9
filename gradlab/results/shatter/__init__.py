"""Correlations of gradients across depth, on random networks: the result, what it says, how it is drawn."""
