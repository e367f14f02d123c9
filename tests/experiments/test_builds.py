"""Every measurement builds a network once a seed, whatever it copies of it afterwards."""

import pytest

import gradlab as gl
from gradlab.models.cifar import CifarNet
from gradlab.models.transformer.vit import ViT

NET, VIT = "plain8-width=2@init", "vit1-width=16-heads=2@init"
SEEDS = 2
CASES = [
    ("responses", NET, 1, {"images": 2}),
    ("responses", NET, 1, {"no_data": True}),
    ("responses", "resnet20@trained", 1, {"images": 2}),
    ("gradients", NET, SEEDS, {"images": 4, "batch_size": 4, "seeds": SEEDS}),
    ("input_gradients", NET, SEEDS, {"images": 4, "batch_size": 4, "seeds": SEEDS}),
    ("signal", NET, SEEDS, {"images": 2, "seeds": SEEDS}),
    ("jacobian", NET, SEEDS, {"images": 1, "seeds": SEEDS}),
    ("lesion", "resnet8-width=2@init", 1, {"images": 2, "batch_size": 2}),
    ("attention", VIT, 1, {"images": 2}),
]


@pytest.mark.parametrize(("measure", "name", "expected", "options"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_a_network_is_built_once_a_seed(measure, name, expected, options, monkeypatch):
    built = []

    def counted(initialize):
        def count(self, *args, **kwargs):
            built.append(type(self))
            initialize(self, *args, **kwargs)

        return count

    for network in (CifarNet, ViT):
        monkeypatch.setattr(network, "__init__", counted(network.__init__))
    getattr(gl, measure)(name, **options)
    assert len(built) == expected
