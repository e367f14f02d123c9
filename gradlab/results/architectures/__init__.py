"""Counting what networks are made of: the result, what it says, how it is drawn."""
