"""What every layer has in common."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Array", "Layer", "Out", "check_integer", "check_row_shape"]

Array = NDArray[Any]
Out = Array | Literal[False] | None
Own = TypeVar("Own", bound="Layer")


def check_integer(name: str, value: object, minimum: int) -> None:
    if not isinstance(value, Integral):
        raise TypeError(f"{name} is {value!r:.60}, expected an integer")
    if value < minimum:
        raise ValueError(f"{name} is {value}, expected >= {minimum}")


def check_row_shape(name: str, value: object) -> tuple[int, ...]:
    """``value`` as a tuple of integers >= 1."""
    if not isinstance(value, (tuple, list)):
        hint = f": ({value},)" if isinstance(value, Integral) else ""
        raise TypeError(f"{name} is {value!r:.60}, expected the tuple of a row's sizes{hint}")
    for size in value:
        check_integer(name, size, 1)
    return tuple(value)


class Layer:
    """One differentiable step of a network.

    A layer computes into buffers that it keeps: what `forward` and `backward` return is overwritten
    by their next call, and the input of `forward` has to stay as it is until `backward` has run.
    The arrays of `parameters`, `gradients` and `state` are the layer's own and stay the same
    objects for its whole life; optimizers write into them.
    """

    keeps_output: bool = False  # backward reads what forward returned
    in_place: bool = False  # backward may write its result over dy
    sizes: tuple[int, int] | None = None  # axis 1 before and after, where the layer fixes them
    keeps_shape: bool = False  # any input, and an output of its shape
    keeps_channels: bool = False  # any size of axis 1, which stays
    fuses_relu: bool = False  # has forward_relu and backward_relu

    def forward(self, x: Array, training: bool = True) -> Array:
        """The layer's output for a batch ``x`` (N, ...); remembers what `backward` needs."""
        raise NotImplementedError(f"{type(self).__name__} has no forward(x, training); define it")

    def backward(self, dy: Array, out: Out = None) -> Array | None:
        """The gradient with respect to `forward`'s input; fills `gradients` on the way.

        ``dy`` is the gradient with respect to `forward`'s output. ``out``: None, a buffer of the
        layer; an array, written there (``dy`` itself where ``in_place``); False, the input's
        gradient is not computed and None is returned.
        """
        raise NotImplementedError(f"{type(self).__name__} has no backward(dy, out); define it")

    def forward_relu(self, x: Array, training: bool) -> Array:
        """`forward` with the ReLU behind it, in one pass and to the same bits; where ``fuses_relu``."""
        raise NotImplementedError

    def backward_relu(self, dy: Array, y: Array, out: Out, dy_is_ours: bool) -> Array | None:
        """`backward` with the ReLU behind it, whose output was ``y``; ``dy`` may be written over if it ``is_ours``."""
        raise NotImplementedError

    def parameters(self) -> list[Array]:
        """The arrays an optimizer updates."""
        return []

    def gradients(self) -> list[Array]:
        """One array for each of `parameters`, filled by `backward`."""
        return []

    def state(self) -> dict[str, Array]:
        """Name -> array: the parameters and what else a checkpoint has to keep. Not a copy."""
        return {}

    def children(self) -> list[tuple[str, Layer]]:
        """The layers that this one is made of, with their names in `state`."""
        return []

    def output_shape(self, input_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of `forward`'s output for one of the input, both without the batch's axis."""
        if self.keeps_shape:
            return input_shape
        if self.sizes is not None and input_shape and input_shape[0] == self.sizes[0]:
            return (self.sizes[1], *input_shape[1:])
        raise NotImplementedError(
            f"{self!r:.60} does not say what becomes of rows of shape {input_shape}; "
            "set keeps_shape = True in its class, or define output_shape"
        )

    def summary(self, input_shape: tuple[int, ...]) -> str:
        """A table: layer, shape of its output and its bytes for one row, parameters; and the bytes of the state.

        ``input_shape`` is a row's, without the batch's axis. A block's layers are indented below it. Outputs are taken
        to be of the model's type; a layer keeps its own until `backward`, so that a batch of N rows needs N times the
        layers' sum, and at most as much again for gradients.
        """
        from onepass.nn.summary import table

        return table(self, check_row_shape("input_shape", input_shape))

    def check_state(self, state: Mapping[str, Array]) -> None:
        """ValueError unless names, shapes and dtypes of ``state`` are those of `state`."""
        own = self.state()
        if missing := sorted(own.keys() - state.keys()):
            raise ValueError(f"state lacks {', '.join(missing)}")
        if unknown := sorted(state.keys() - own.keys()):
            raise ValueError(f"state holds {', '.join(unknown)}, which this model has not")
        for name, array in own.items():
            given = state[name]
            if given.shape != array.shape or given.dtype != array.dtype:
                raise ValueError(
                    f"state[{name!r}] is {given.dtype} {given.shape}, expected {array.dtype} {array.shape}"
                )

    def load_state(self, state: Mapping[str, Array]) -> None:
        """Copies ``state`` into the layer's arrays, after `check_state`."""
        self.check_state(state)
        for name, array in self.state().items():
            np.copyto(array, state[name])

    def astype(self: Own, dtype: DTypeLike) -> Own:
        """A copy of the layer, or of a whole model, with parameters, gradients and statistics of another type.

        float32 or float64; a trained network is looked at in float64 (`onepass.landscape`) this way. The copy shares no
        memory with the original; parameters that two layers share stay shared. TypeError for a layer whose parameters
        are not its attributes.

        >>> from onepass import nn
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm(8))
        >>> {str(array.dtype) for array in model.astype("float64").state().values()}
        {'float64'}
        """
        from onepass.nn.conversion import converted

        return converted(self, dtype)

    def initialized(self) -> None:
        """After parameters were drawn: puts right what must not be random."""
        for _, layer in self.children():
            layer.initialized()

    def initialize(self, rng: np.random.Generator) -> None:
        """Draws the initial parameters from ``rng``."""
