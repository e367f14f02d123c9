"""Lesions of networks and paths through them: the request and its measurement."""
