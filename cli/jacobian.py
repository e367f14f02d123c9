"""`gradlab jacobian`: singular values of the input-output Jacobian."""

from pathlib import Path

import gradlab as gl
from gradlab.experiments.jacobian.request import JacobianRequest

from . import options
from .saving import Saving


@options.with_options(out=Path("results/jacobian"))
def jacobian(asked: JacobianRequest, saving: Saving) -> None:
    """Measure the singular values of the input-output Jacobian of single examples (Pennington et al. 2017, 1711.04735).

    They are estimated from products with random vectors (Lanczos quadrature), for a network or one of its modules. For
    the body of a plain fully connected net, theory is drawn beside them. Writes jacobian.csv (one row per node of the
    quadrature), jacobian.json (the record) and the figure.

        gradlab jacobian --model mlp5-norm=none@init,mlp17-norm=none@init --part body --data noise

        gradlab jacobian --model resnet20@init,plain20@init
    """
    with saving.progress() as progress:
        result = gl.jacobian(**asked.arguments(), progress=progress)
    saving.report(result)
