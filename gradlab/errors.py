"""The two errors gradlab raises on purpose; the command line prints them as one line, without a traceback."""


class GradlabError(RuntimeError):
    """A run that cannot succeed: a damaged file, no network, an unwritable folder (exit code 1)."""


class UsageError(GradlabError, ValueError):
    """A request that cannot be meant: an unknown network, a layer that is not there (exit code 2)."""
