"""Input gradients of image networks: what is asked for, and how it is measured."""
