"""The signal in every block: the request and its measurement."""
