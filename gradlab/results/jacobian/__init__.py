"""Singular values of Jacobians: result, findings and figure."""
