"""The signal in every block: the result, what it says, how it is drawn."""
