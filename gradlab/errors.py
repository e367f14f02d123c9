"""The two errors gradlab raises on purpose; the command line prints them as one line, without a traceback."""

LONGEST = 500
"""Characters of a message: names and other libraries' reasons in it may have any length."""


class GradlabError(RuntimeError):
    """A run that cannot succeed: a damaged file, no network, an unwritable folder (exit code 1)."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(GradlabError, ValueError):
    """A request that cannot be meant: an unknown network, a layer that is not there (exit code 2)."""


def one_line(text: str) -> str:
    """A text that any terminal takes: in one line, without control characters, its middle left out where it is long.

    What a name holds that is no character, as names of files that are not UTF-8, is shown by its number.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= LONGEST else f"{text[:180]}…{text[181 - LONGEST :]}"
