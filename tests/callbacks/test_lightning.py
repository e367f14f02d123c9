"""The Lightning callback, with the real library."""

import pytest

import gradlab as gl
from gradlab.errors import GradlabError


@pytest.mark.filterwarnings("ignore")
def test_gradients_of_a_fit() -> None:
    from callbacks.lightning_fits import Module, fit

    from gradlab.callbacks.lightning import ProbeCallback

    parameters = ProbeCallback(lambda module: gl.ParameterGradients(module, every=2))
    responses = ProbeCallback(lambda module: gl.ResponseGradients(module.network, every=2))
    examples = ProbeCallback(lambda module: gl.ExampleGradients(module.network, every=2))
    with pytest.raises(GradlabError, match="training has not started"):
        parameters.result()
    module = Module()
    fit(module, parameters, responses, examples, gradient_clip_val=1e-3)
    frame = parameters.result("mine").layers("mine")
    assert frame["step"].tolist() == [0, 0, 2, 2, 4, 4]
    first = frame[frame["layer"] == "network.0"]
    # Lightning's own hook stands where the callback's does, before clipping.
    assert first["grad_norm"].tolist() == pytest.approx(module.seen[::2], rel=1e-6)
    assert responses.result().frame["response_grad_norm"].notna().all()
    assert responses.result().notes == []
    single = examples.result().layers().query("layer == '0'")["grad_norm"]
    assert single.tolist() == pytest.approx(module.seen[::2], rel=1e-5)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())


@pytest.mark.filterwarnings("ignore")
def test_accumulated_batches_are_one_step() -> None:
    """Five batches, two a step: the last one stands alone."""
    from callbacks.lightning_fits import Module, fit

    from gradlab.callbacks.lightning import ProbeCallback

    makes = [
        gl.ParameterGradients,
        lambda module: gl.ResponseGradients(module.network),
        lambda module: gl.ExampleGradients(module.network),
    ]
    callbacks, module = [ProbeCallback(make) for make in makes], Module()
    fit(module, *callbacks, accumulate_grad_batches=2)
    assert len(module.seen) == 3
    parameters, responses, examples = (callback.result().layers() for callback in callbacks)
    assert parameters.query("layer == 'network.0'")["grad_norm"].tolist() == pytest.approx(module.seen, rel=1e-6)
    assert examples.query("layer == '0'")["grad_norm"].tolist() == pytest.approx(module.seen, rel=1e-5)
    assert responses.query("layer == '0'")["step"].tolist() == [0, 1, 2]
    assert responses.query("layer == '0'")["response_numel"].tolist() == [64, 64, 32]


@pytest.mark.filterwarnings("ignore")
def test_each_optimizers_steps_count() -> None:
    from callbacks.lightning_fits import TwoOptimizers, fit

    from gradlab.callbacks.lightning import ProbeCallback

    module, callback = TwoOptimizers(), ProbeCallback(gl.ParameterGradients)
    fit(module, callback)
    first = callback.result().layers().query("layer == 'network.0'")
    assert first["step"].tolist() == list(range(8))
    assert first["grad_norm"].tolist() == pytest.approx(module.seen, rel=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_the_probe_leaves_when_training_fails() -> None:
    from callbacks.lightning_fits import Module, fit

    from gradlab.callbacks.lightning import ProbeCallback

    module = Module()
    module.fails_at = 2
    callback = ProbeCallback(gl.ResponseGradients)
    with pytest.raises(ZeroDivisionError):
        fit(module, callback)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in module.modules())
    assert callback.result().frame["step"].unique().tolist() == [0, 1]


@pytest.mark.filterwarnings("ignore")
def test_another_probe_is_refused() -> None:
    from callbacks.lightning_fits import Module, fit

    from gradlab.callbacks.lightning import ProbeCallback

    with pytest.raises(GradlabError, match="not ResponseStd"):
        fit(Module(), ProbeCallback(gl.ResponseStd))
