"""Measurements as tidy frames with their records; what each holds, says and draws has a folder of its own."""
