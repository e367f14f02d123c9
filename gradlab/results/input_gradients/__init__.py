"""Input gradients on images: the result, what it says, how it is drawn."""
