"""Other tools, each doing a job of gradlab on the same network and batch."""
