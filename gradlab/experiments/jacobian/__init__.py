"""Singular values of Jacobians: the request and its measurement."""
