"""Two runs side by side: the result, what it says, how it is drawn."""
