"""Correlations of gradients across depth in random networks: result, findings and figures."""
