"""The stages of networks and their costs: result, findings and figure."""
