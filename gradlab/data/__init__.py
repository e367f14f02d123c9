"""Named data sets, read from what is bundled, on disk or drawn, and handed out as batches on a device."""
