"""Activity of rectifiers along a line of inputs: the result, what it says, how it is drawn."""
