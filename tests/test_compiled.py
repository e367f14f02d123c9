"""The C libraries: compiled once, and what happens where they cannot be."""

import ctypes
import shutil
import warnings

import pytest
import torch

from gradlab import compiled
from gradlab.compiled import load_library
from gradlab.stats import fast_moments, native

SUMS = "gradlab.stats", "moments"
needs_compiler = pytest.mark.skipif(native._library() is None, reason="there is no C compiler")


def serves(library):
    return library.gradlab_moments is not None


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, and libraries that are looked for again."""
    monkeypatch.setattr(compiled, "user_cache_path", lambda name: tmp_path / name)
    native._library.cache_clear()
    yield tmp_path / "gradlab" / "native"
    native._library.cache_clear()


@needs_compiler
def test_is_compiled_once(fresh, monkeypatch):
    assert isinstance(load_library(*SUMS, serves), ctypes.CDLL)
    (made,) = fresh.iterdir()
    monkeypatch.setattr(compiled, "_compile", lambda *_: pytest.fail("compiled again"))
    assert load_library(*SUMS, serves) is not None
    assert [*fresh.iterdir()] == [made]


@needs_compiler
def test_one_that_was_cut_short_is_compiled_again(fresh):
    """To load it would end the process by a bus error."""
    load_library(*SUMS, serves)
    (made,) = fresh.iterdir()
    content = made.read_bytes()
    # A new file, since the old one is mapped by this process.
    made.unlink()
    made.write_bytes(content[: len(content) // 2])
    assert load_library(*SUMS, native._adds_up) is not None
    assert max(path.stat().st_size for path in fresh.iterdir()) == len(content)


@needs_compiler
def test_the_command_of_a_compiler_may_have_arguments(fresh, monkeypatch):
    monkeypatch.setenv("CC", f"env {shutil.which('cc') or shutil.which('gcc')} -DGRADLAB")
    seen = []
    run = compiled.subprocess.run
    monkeypatch.setattr(compiled.subprocess, "run", lambda command, **how: (seen.append(command), run(command, **how)))
    assert load_library(*SUMS, native._adds_up) is not None
    assert seen[0][0] == shutil.which("env")
    assert seen[0][2] == "-DGRADLAB"


@needs_compiler
def test_one_that_does_not_serve_is_left_alone_and_one_that_is_broken_named(fresh):
    def broken(library):
        raise OSError("it does not add up")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_library(*SUMS, lambda library: False) is None
    with pytest.warns(UserWarning, match="does not add up"):
        assert load_library(*SUMS, broken) is None


@pytest.mark.parametrize("compiler", [None, "/bin/false"])
def test_without_a_compiler_it_says_so_once(fresh, monkeypatch, compiler):
    monkeypatch.setattr(shutil, "which", lambda name: compiler)
    x = torch.randn(30, 30, generator=torch.Generator().manual_seed(0)) + 1
    with pytest.warns(UserWarning, match="cannot be built"):
        found = fast_moments(x)
    assert found.mean.item() == pytest.approx(x.double().mean().item(), rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_library(*SUMS, serves) is None


def test_can_be_turned_off(fresh, monkeypatch):
    monkeypatch.setenv("GRADLAB_NATIVE", "0")
    assert load_library(*SUMS, serves) is None
    assert not fresh.exists()
