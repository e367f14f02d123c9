"""Measurements as tidy frames with their records; each has a folder for its result, findings and figure."""
