"""Singular values of Jacobians: the result, what it says, how it is drawn."""
