"""Layer responses: the request and its measurement."""
