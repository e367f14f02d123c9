"""Lesions and paths: the result, what it says, how it is drawn."""
