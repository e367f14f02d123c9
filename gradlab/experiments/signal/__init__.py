"""The signal in every block: what is asked for, and how it is measured."""
