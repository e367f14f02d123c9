"""Singular values of Jacobians: what is asked for, and how they are measured."""
