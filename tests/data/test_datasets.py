"""The table of data sets: which name is read by which entry, and that every loader is there."""

import importlib
import inspect

import pytest

from gradlab.data.datasets import DATA_SETS, Entry, data_sets_help


@pytest.mark.parametrize("entry", DATA_SETS, ids=lambda entry: entry.form)
def test_every_entry_has_its_loader(entry: Entry) -> None:
    module, _, function = entry.loader.partition(":")
    assert len(inspect.signature(getattr(importlib.import_module(module), function)).parameters) == 1
    assert entry.form in data_sets_help()


@pytest.mark.parametrize(
    ("name", "form", "path"),
    [
        ("cifar10", "cifar10", ""),
        ("imagefolder:a/b", "imagefolder:PATH", "a/b"),
        ("imagefolder:", "imagefolder:PATH", ""),
        ("a/b.npz", "PATH.npz", "a/b.npz"),
        ("a/b.npz:train", "PATH.npz:train", "a/b.npz"),
        ("imagefolder:a.npz", "imagefolder:PATH", "a.npz"),
        ("cifar11", None, None),
        ("a.npz:test", None, None),
    ],
)
def test_a_name_is_read_by_the_first_form_that_it_fits(name: str, form: str | None, path: str | None) -> None:
    fitting = [(entry.form, found) for entry in DATA_SETS if (found := entry.path(name)) is not None]
    assert (fitting or [(None, None)])[0] == (form, path)
