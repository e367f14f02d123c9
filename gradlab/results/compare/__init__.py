"""The answers to three questions on networks: result, findings and figure."""
