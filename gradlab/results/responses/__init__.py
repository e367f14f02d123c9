"""Layer responses: result, findings and figure."""
