"""How an optimizer keeps its numbers: types of states, rounding, master weights, copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from onepass import _core
from onepass._blocks import blocks_size
from onepass._storage import computed_type, decode, from_memory_order, is_bfloat16
from onepass._stored_step import encode_state
from onepass._types import Update
from onepass._update_functions import check_bits, check_seed

Array = NDArray[Any]

STATE_DTYPES = ("float32", "bfloat16", "float8")
MASTER_WEIGHTS = (None, "float32", "split")
LINE, PAGE = 64, 4096  # bytes


class Storage(NamedTuple):
    """What a user says of it; see :class:`Optimizer`."""

    state_dtype: str
    stochastic_rounding: bool
    seed: int
    dtype: str | None
    master_weights: str | None
    copies: Sequence[Array | None] | None

    @classmethod
    def checked(
        cls,
        state_dtype: str = "float32",
        stochastic_rounding: bool | None = None,
        seed: int = 0,
        dtype: str | None = None,
        master_weights: str | None = None,
        copies: Sequence[Array | None] | None = None,
        **unknown: Any,
    ) -> Storage:
        for name in unknown:
            raise TypeError(f"{name}: is unknown here; of storage there are {', '.join(cls._fields)}")
        if state_dtype not in STATE_DTYPES:
            raise ValueError(f"state_dtype: expected one of {', '.join(map(repr, STATE_DTYPES))}, got {state_dtype!r}")
        if master_weights not in MASTER_WEIGHTS:
            raise ValueError(f"master_weights: expected None, 'float32' or 'split', got {master_weights!r}")
        if not isinstance(stochastic_rounding, bool | np.bool_ | int | None):
            raise TypeError(f"stochastic_rounding: expected True, False or None, got {stochastic_rounding!r}")
        if copies is not None and not isinstance(copies, (list, tuple)):
            raise TypeError(
                f"copies: expected a list with an array or None for each parameter, got {type(copies).__name__}"
            )
        stochastic = state_dtype == "float8" if stochastic_rounding is None else bool(stochastic_rounding)
        return cls(state_dtype, stochastic, check_seed(seed), dtype, master_weights, copies)

    def check_params(self, params: Sequence[Any]) -> None:
        check_bits("params", params, self.dtype)
        for i, param in enumerate(params):
            if not isinstance(param, np.ndarray):
                raise TypeError(f"params[{i}]: expected a NumPy array, got {type(param).__name__}")
            half = param.dtype == np.float16 or is_bfloat16(param)
            if param.dtype not in (np.float32, np.float64) and not half:
                raise TypeError(f"params[{i}]: expected float32, float64, float16 or bfloat16, got {param.dtype}")
            if param.dtype == np.float64 and self.state_dtype != "float32":
                raise TypeError(
                    f"params[{i}]: is float64, whose states are float64 too; state_dtype={self.state_dtype!r} "
                    "needs float32"
                )
            if self.master_weights == "split" and half and not is_bfloat16(param):
                raise TypeError(f"params[{i}]: is float16; master_weights='split' needs bfloat16, 'float32' takes both")
        if self.master_weights == "float32":  # the plan of the steps knows the parameters as copies
            _core.Plan("sgd", list(params), [()] * len(params), [0] * len(params))
        self._check_copies(params)

    def _check_copies(self, params: Sequence[Array]) -> None:
        if self.copies is None:
            return
        if len(self.copies) != len(params):
            raise ValueError(f"copies: expected {len(params)} arrays or None, like params, got {len(self.copies)}")
        if self.master_weights == "float32":
            raise ValueError(
                "copies: parameters with master_weights='float32' are the copies already; give one of both"
            )
        for i, copy in enumerate(self.copies):
            if copy is not None and not isinstance(copy, np.ndarray):
                raise TypeError(f"copies[{i}]: expected a NumPy array or None, got {type(copy).__name__}")
        check_bits("copies", self.copies, self.dtype)

    def weights(self, params: Sequence[Array]) -> tuple[list[Array], dict[str, list[Array | None]]]:
        """What the updates work on, and what stands beside it: lower halves and copies."""
        own = list(params)
        beside: dict[str, list[Array | None]] = {}
        half = [param.dtype == np.float16 or is_bfloat16(param) for param in params]
        if self.master_weights == "float32":
            own = [decode(p, np.float32) if is_half else p for p, is_half in zip(params, half, strict=True)]
            beside["copy"] = [p if is_half else None for p, is_half in zip(params, half, strict=True)]
        elif self.master_weights == "split":
            beside["lower"] = [
                zeros_like(p, np.uint16) if is_half else None for p, is_half in zip(params, half, strict=True)
            ]
        if self.copies is not None:
            beside["copy"] = list(self.copies)
        return own, beside

    def states(self, update: Update, param: Array, values: Sequence[Array]) -> tuple[Array, ...]:
        """States as they are stored, from what they are computed in."""
        if self.state_dtype == "float32":
            return tuple(values)
        stored = []
        for place, (value, positive) in enumerate(zip(values, update.positive, strict=True)):
            if self.state_dtype == "float8":
                out = np.empty(blocks_size(param.size), np.uint8)
                _core.zero([out])
            else:
                out = zeros_like(param, np.uint16, place)
            if value.any():
                encode_state(value, out, param, positive, None)
            stored.append(out)
        return tuple(stored)


def zeros_like(param: Array, dtype: Any = None, place: int = 0) -> Array:
    """Zeros in the parameter's own order of axes, without the gaps of a view, so that all streams are dense where they
    can be; all threads together write them, into huge pages where the system has them.

    They begin at a cache line, since loads across two cost twice, and large ones a quarter of a page behind the
    parameter's place in its page, ``place`` quarters more: where two streams have the same place, loads wait for stores
    that are not theirs. Adam of 1 Mi parameters on a Zen 4 takes a third of the time.
    """
    kind = np.dtype(computed_type(param) if dtype is None else dtype)
    size = param.size * kind.itemsize
    period = PAGE if size >= 16 * PAGE else LINE
    wanted = param.ctypes.data // LINE * LINE + (place + 1) * PAGE // 4
    memory = np.empty(size + period, np.uint8)
    start = (wanted - memory.ctypes.data) % period
    array = from_memory_order(memory[start : start + size].view(kind), param)
    _core.zero([array])
    return array
