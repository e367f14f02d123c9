"""Random nets on a line of inputs: what is asked for, runs of every family, and the rows of the frames."""
