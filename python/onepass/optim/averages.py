"""Averages of weights over any optimizer, written in the same pass as the step: Lookahead, EMA, SWA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, ClassVar

import numpy as np

from onepass._storage import computed_type, decode, encode
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

    options: ClassVar[tuple[str, ...]] = ()
    """What the wrapper is made with: saved and loaded."""

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: expected one of onepass.optim, got {type(optimizer).__name__}")
        self.optimizer = optimizer
        self.steps = 0
        self._exact: list[Array | None] = []
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

    def check_average(self, options: Mapping[str, Any]) -> None:
        """Raise TypeError or ValueError for an option out of its range."""
        raise NotImplementedError

    def step(self, grads: Sequence[Array | None], grad_scale: float = 1.0) -> StepInfo:
        self.check_average({name: getattr(self, name) for name in self.options})
        plan = self.innermost._plan
        plan.set_average(self._slot, *self.weight(self.steps))
        try:
            info = self.optimizer.step(grads, grad_scale)
        finally:  # a step of the optimizer by itself leaves the averages alone
            plan.set_average(self._slot, 0.0, False)
        if not info.skipped:
            self.steps += 1
        return info

    def learning_rates(self) -> list[float]:
        return self.optimizer.learning_rates()

    def state_dict(self) -> dict[str, Any]:
        state = self.optimizer.state_dict()
        own = {"kind": type(self).__name__, "steps": self.steps, **{name: getattr(self, name) for name in self.options}}
        names = [*state.get("averages", []), own]
        entry = f"average {self._slot}"
        arrays = {i: {**own, entry: self.averages[i]} for i, own in state["state"].items()}
        return {**state, "averages": names, "state": arrays}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        wrappers = list(state_dict.get("averages", []))
        found, expected = [own["kind"] for own in wrappers], self._kinds()
        if found != expected:
            held = f"averages of {' in '.join(found)}" if found else "no averages"
            hint = "" if found else "; optimizer.load_state_dict() takes it"
            raise ValueError(f"state_dict: holds {held}, this optimizer's are of {' in '.join(expected)}{hint}")
        own = wrappers.pop()
        missing = sorted({"steps", *self.options} - own.keys())
        if missing:
            raise ValueError(f"state_dict: {own['kind']} has no {missing[0]}")
        self.check_average(own)
        check_count("steps", own["steps"], 0)
        entry = f"average {self._slot}"
        loaded = []
        for i, average in enumerate(self.averages):
            array = state_dict["state"].get(i, {}).get(entry)
            if array is None or np.shape(array) != average.shape or np.asarray(array).dtype != average.dtype:
                raise ValueError(f"state_dict: {entry} of parameter {i}: expected {average.dtype} {average.shape}")
            loaded.append(np.asarray(array))
        inner = {key: value for key, value in state_dict.items() if key != "averages"}
        self.optimizer.load_state_dict({**inner, "averages": wrappers} if wrappers else inner)
        for average, array in zip(self.averages, loaded, strict=True):
            average[...] = array
        self.steps = int(own["steps"])
        for name in self.options:
            setattr(self, name, own[name])

    def swap(self) -> None:
        """Exchange parameters and averages: call it before an evaluation with the averages, and again behind it.

        Parameters in fewer bits receive the averages rounded; the second call brings back the averages to the bit, if
        the parameters still are what they were rounded to.
        """
        inner, kept = self.innermost, self._exact
        rounds = [
            inner._beside_at("lower", i) is None and weights.dtype != average.dtype
            for i, (weights, average) in enumerate(zip(inner.weights, self.averages, strict=True))
        ]
        self._exact = [a.copy() if loses else None for a, loses in zip(self.averages, rounds, strict=True)]
        inner._exchange(self.averages)
        if not kept:
            return
        self._exact = []
        for average, exact, weights in zip(self.averages, kept, inner.weights, strict=True):
            if exact is not None and _is_rounding(average, exact, weights):
                average[...] = exact

    def _kinds(self) -> list[str]:
        """Of all wrappers, the innermost first."""
        inner = self.optimizer._kinds() if isinstance(self.optimizer, Averaging) else []
        return [*inner, type(self).__name__]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.optimizer!r})"


def check_count(name: str, value: Any, low: int) -> None:
    """Refuses what is not an integer >= low."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < low:
        raise ValueError(f"{name}: expected an integer >= {low}, got {value!r}")


def _is_rounding(values: Array, exact: Array, like: Array) -> bool:
    """Whether values are exact, rounded to the type of like."""
    stored = np.empty_like(like, subok=False)
    encode(exact, stored, None)
    return bool((decode(stored, computed_type(like)).view(np.uint32) == values.view(np.uint32)).all())


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

    options = ("decay",)

    def __init__(self, optimizer: Optimizer, decay: float = 0.999) -> None:
        self.check_average({"decay": decay})
        super().__init__(optimizer)
        self.decay = decay

    def check_average(self, options: Mapping[str, Any]) -> None:
        check_number("decay", options["decay"], 0.0, 1.0)

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

    options = ("start", "every")

    def __init__(self, optimizer: Optimizer, start: int = 0, every: int = 1) -> None:
        self.check_average({"start": start, "every": every})
        super().__init__(optimizer)
        self.start, self.every = start, every

    def check_average(self, options: Mapping[str, Any]) -> None:
        check_count("start", options["start"], 0)
        check_count("every", options["every"], 1)

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

    options = ("k", "alpha")

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        self.check_average({"k": k, "alpha": alpha})
        super().__init__(optimizer)
        self.k, self.alpha = k, alpha

    def check_average(self, options: Mapping[str, Any]) -> None:
        check_count("k", options["k"], 1)
        check_number("alpha", options["alpha"], 0.0, 1.0)

    def weight(self, step: int) -> tuple[float, bool]:
        due = (step + 1) % self.k == 0
        return (self.alpha, True) if due else (0.0, False)
