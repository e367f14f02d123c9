"""One measurement a file or folder: what it asks for, and how it builds networks, runs data past probes and returns.

A measurement's function has the name of its module, so nothing is imported here; `gradlab` offers the functions.
"""
