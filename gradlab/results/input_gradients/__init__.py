"""Input gradients on images: result, findings and figure."""
