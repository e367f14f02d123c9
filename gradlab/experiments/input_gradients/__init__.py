"""Input gradients of image networks: the request and its measurement."""
