"""A file that grows by whole pieces of text, each in one unbuffered write, so that a kill leaves it whole."""

from __future__ import annotations

from pathlib import Path

from gradlab.errors import GradlabError


class GrowingFile:
    """A new file in a folder that is made if necessary.

    Args:
        path: The path of the file, which is overwritten.

    Raises:
        GradlabError: If it cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("wb", buffering=0)
        except OSError as error:
            raise self._failure(error) from None

    def append(self, text: str) -> None:
        """Append a text in one write.

        Raises:
            GradlabError: If it cannot be written.
        """
        try:
            self._file.write(text.encode())
        except OSError as error:
            raise self._failure(error) from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _failure(self, error: OSError) -> GradlabError:
        return GradlabError(f"cannot write {self.path}: {error.strerror}")
