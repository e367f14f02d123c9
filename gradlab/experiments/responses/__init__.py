"""Layer responses: what is asked for, and how it is measured."""
