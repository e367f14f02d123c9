"""Three questions on networks: what is asked for, the networks that answer it, and their measurement."""
