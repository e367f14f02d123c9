"""Plain and residual nets across depth: the result, what it says, how it is drawn."""
