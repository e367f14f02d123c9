"""The signal in every block: result, findings and figure."""
