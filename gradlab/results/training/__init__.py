"""Loss and error along a training: the result, what it says, how it is drawn."""
