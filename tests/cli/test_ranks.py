"""Two processes with one command: one of them speaks, and both exit with the code of its error."""

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from forked_command import run_forked


def ran(folder: Path, *arguments: str) -> tuple[list[int], list[str]]:
    """Run a command by two processes, and return their exit codes and errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    environments = [{**os.environ, **place, "OMP_NUM_THREADS": "1", "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(lambda environment: run_forked(arguments, folder, environment), environments))
    assert not any("Traceback" in each.stderr for each in done)
    return [each.returncode for each in done], [line for each in done for line in each.stderr.splitlines()]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["nonesuch"], 2, "unknown network"),
        (["resnet8@init", "--imagess", "4"], 2, "No such option"),
        (["resnet8@init", "--images", "4", "--out", "taken/out"], 1, "taken"),
    ],
)
def test_both_exit_with_the_code_of_the_error_that_one_prints(
    arguments: list[str], code: int, error: str, tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    codes, errors = ran(tmp_path, "responses", *arguments)
    assert codes == [code, code], errors
    (said,) = (line for line in errors if line.startswith("gradlab: "))
    assert error in said
