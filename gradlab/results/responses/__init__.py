"""Layer responses: the result, what it says, how it is drawn."""
