"""What is compared before a whole training step is timed: its first losses and gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.case import Result

STEPS = 5


def first_steps(run: Callable[[], object], loss: Callable[[], Any], gradients: Callable[[], Sequence[Any]]) -> Result:
    """Makes STEPS steps: the gradients of the first, and the losses of all, which show what the optimizer did.

    Parameters tell less: where a gradient is zero but for rounding, as a bias' before batch norm, Adam's first step
    goes up or down by chance, and the loss does not depend on it.
    """
    losses: list[float] = []
    found: dict[str, Any] = {}
    for step in range(STEPS):
        run()
        losses.append(float(loss()))
        if step == 0:
            found = {f"gradient[{i}]": np.array(gradient) for i, gradient in enumerate(gradients())}
    return {"losses": np.array(losses), **found}
