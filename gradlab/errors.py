"""The errors that gradlab raises on purpose; the command line prints them as one line, without a traceback."""

LONGEST = 500
"""Largest number of characters of a message, since names and other libraries' messages in it may be long."""


class GradlabError(RuntimeError):
    """A failure at run time, such as a damaged file, no internet connection or an unwritable folder (exit code 1)."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class NothingSeen(GradlabError):
    """A probe has seen nothing that it measures; the message advises the loop that it was attached in."""


class UsageError(GradlabError, ValueError):
    """An invalid request, such as an unknown network or a layer that does not exist (exit code 2)."""


def reason_of(error: Exception) -> str:
    """Return the reason of an error in words: of a file that cannot be read, its name and why, without a number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def one_line(text: str) -> str:
    """Format a text for any terminal: in one line, without control characters, and without its middle if it is long.

    Code points that are not characters, as in file names that are not UTF-8, are shown as escapes.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else " " if c.isspace() else ascii(c)[1:-1] for c in text)
    return text if len(text) <= LONGEST else f"{text[:180]}…{text[181 - LONGEST :]}"
