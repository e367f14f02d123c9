"""Plain and residual nets across depth: result, findings and figure."""
