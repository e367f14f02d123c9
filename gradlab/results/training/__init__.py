"""Loss and error during training: result, findings and figure."""
