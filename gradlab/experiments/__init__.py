"""One measurement per file or folder, which builds networks, runs data through them under probes and returns a result.

A measurement's function has the name of its module, so nothing is imported here; `gradlab` exports the functions.
"""
