"""Activity of rectifiers along a line of inputs: the request and its measurement."""
