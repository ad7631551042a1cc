"""Averages of weights over any optimizer, written in the same pass as the step: Lookahead, EMA, SWA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onepass.optim.optimizer import Array, Optimizer, StepInfo, check_number


class Averaging(Optimizer):
    """Base of the wrappers: an optimizer that also keeps an average of each parameter.

    The average has the type that the parameter is computed in (float32, or float64), so that of a parameter in fewer
    bits it is finer than the parameter. A parameter whose gradient is None is left alone, and so is its average. A step
    that reaches the averages moves 8 bytes more for each float32 parameter, other steps none. Two wrappers may be put
    around one optimizer, in either order: the inner one's average is taken first.

    Attributes:
        optimizer: what was wrapped; its ``param_groups``, ``max_norm`` ... are also this one's.
        averages: an array for each parameter.
        steps: made by this wrapper.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected one of onepass.optim, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.steps = 0
        self._slot, self.averages = self.innermost._add_average()

    @property
    def innermost(self) -> Optimizer:
        """The optimizer inside all wrappers."""
        inner = self.optimizer
        while isinstance(inner, Averaging):
            inner = inner.optimizer
        return inner

    def __getattr__(self, name: str) -> Any:
        if name == "optimizer":  # not yet made
            raise AttributeError(name)
        return getattr(self.optimizer, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("max_norm", "max_value", "param_groups"):
            setattr(self.optimizer, name, value)
        else:
            super().__setattr__(name, value)

    def weight(self, step: int) -> tuple[float, bool]:
        """Of step number ``step`` (from 0): average += weight (param - average); and whether param = average then."""
        raise NotImplementedError

    def step(self, grads: Sequence[Array | None], grad_scale: float = 1.0) -> StepInfo:
        self.innermost._plan.set_average(self._slot, *self.weight(self.steps))
        info = self.optimizer.step(grads, grad_scale)
        if not info.skipped:
            self.steps += 1
        return info

    def learning_rates(self) -> list[float]:
        return self.optimizer.learning_rates()

    def state_dict(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        names = [*state.get("averages", []), {"kind": type(self).__name__, "steps": self.steps}]
        entry = f"average {self._slot}"
        arrays = {i: {**own, entry: self.averages[i]} for i, own in state["state"].items()}
        return {**state, "averages": names, "state": arrays}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        kinds = list(state_dict.get("averages", []))
        own = kinds.pop() if kinds else {"kind": "no wrapper"}
        if own["kind"] != type(self).__name__:
            raise ValueError(f"state_dict: is of {own['kind']}, this is {type(self).__name__}")
        entry = f"average {self._slot}"
        loaded = []
        for i, average in enumerate(self.averages):
            array = state_dict["state"].get(i, {}).get(entry)
            if array is None or np.shape(array) != average.shape or np.asarray(array).dtype != average.dtype:
                raise ValueError(f"state_dict: {entry} of parameter {i}: expected {average.dtype} {average.shape}")
            loaded.append(np.asarray(array))
        inner = {key: value for key, value in state_dict.items() if key != "averages"}
        self.optimizer.load_state_dict({**inner, "averages": kinds} if kinds else inner)
        for average, array in zip(self.averages, loaded, strict=True):
            average[...] = array
        self.steps = int(own["steps"])

    def swap(self) -> None:
        """Exchange parameters and averages: call it before an evaluation with the averages, and again behind it."""
        self.innermost._exchange(self.averages)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r})"


class EMA(Averaging):
    """An exponential moving average of the weights (Polyak and Juditsky 1992): average += (1 - decay) (p - average).

    Args:
        optimizer: any of onepass.optim.
        decay: what the average keeps. The average begins as the parameters are now.

    >>> import numpy as np
    >>> from onepass import optim
    >>> p = np.array([0.0])
    >>> ema = EMA(optim.SGD([p], lr=1.0), decay=0.5)
    >>> for _ in range(2):
    ...     _ = ema.step([np.array([-1.0])])
    >>> p.tolist(), ema.averages[0].tolist()
    ([2.0], [1.25])
    """

    def __init__(self, optimizer: Optimizer, decay: float = 0.999) -> None:
        check_number("decay", decay, 0.0, 1.0)
        super().__init__(optimizer)
        self.decay = decay

    def weight(self, step: int) -> tuple[float, bool]:
        return 1.0 - self.decay, False


class SWA(Averaging):
    """Stochastic weight averaging (Izmailov et al., UAI 2018): the mean of the weights behind every ``every``-th step.

    Args:
        optimizer: any of onepass.optim.
        start: steps before the first that counts. Until then ``averages`` holds the weights of the beginning.
        every: steps from one that counts to the next.

    >>> import numpy as np
    >>> from onepass import optim
    >>> p = np.array([0.0])
    >>> swa = SWA(optim.SGD([p], lr=1.0), start=2)
    >>> for _ in range(4):
    ...     _ = swa.step([np.array([-1.0])])
    >>> swa.averages[0].tolist()
    [3.5]
    """

    def __init__(self, optimizer: Optimizer, start: int = 0, every: int = 1) -> None:
        if start < 0 or every < 1:
            raise ValueError(f"start, every: expected integers >= 0 and >= 1, got {start!r} and {every!r}")
        super().__init__(optimizer)
        self.start, self.every = start, every

    def weight(self, step: int) -> tuple[float, bool]:
        counted, rest = divmod(step - self.start, self.every)
        return (1.0 / (counted + 1), False) if counted >= 0 and rest == 0 else (0.0, False)


class Lookahead(Averaging):
    """Lookahead (Zhang et al., NeurIPS 2019): every k steps the slow weights follow, and the fast ones return to them::

        slow += alpha (p - slow);  p = slow

    Args:
        optimizer: the fast one: any of onepass.optim.
        k: steps between.
        alpha: how far the slow weights go.

    >>> import numpy as np
    >>> from onepass import optim
    >>> p = np.array([0.0])
    >>> lookahead = Lookahead(optim.SGD([p], lr=1.0), k=2, alpha=0.5)
    >>> for _ in range(2):
    ...     _ = lookahead.step([np.array([-1.0])])
    >>> p.tolist()
    [1.0]
    """

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        if k < 1:
            raise ValueError(f"k: expected an integer >= 1, got {k!r}")
        check_number("alpha", alpha, 0.0, 1.0)
        super().__init__(optimizer)
        self.k, self.alpha = k, alpha

    def weight(self, step: int) -> tuple[float, bool]:
        due = (step + 1) % self.k == 0
        return (self.alpha, True) if due else (0.0, False)
