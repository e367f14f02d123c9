"""Random nets on a line of inputs: the request, the runs of every family, and the rows of the frames."""
