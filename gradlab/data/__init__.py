"""Named data sets, bundled, read from disk or drawn at random, and served as batches on a device."""
