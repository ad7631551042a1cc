"""Small records that kernels and reference share."""

from __future__ import annotations

from typing import Any, NamedTuple

from numpy.typing import NDArray


class BatchNormSaved(NamedTuple):
    """What batch_norm keeps for its backward pass.

    Attributes:
        mean, invstd: (C,) float64; the statistics that normalized.
        beta: (C,) or None; kept only with relu.
        relu, residual: whether the forward pass had them.
        y: the output; kept only with relu and a residual, where x alone does not tell what the ReLU cut.
        training: whether mean and invstd came from the batch.
        channel_axis: as it was given.
    """

    mean: NDArray[Any]
    invstd: NDArray[Any]
    beta: NDArray[Any] | None
    relu: bool
    residual: bool
    y: NDArray[Any] | None
    training: bool
    channel_axis: int


class RowNormSaved(NamedTuple):
    """What layer_norm, rms_norm, group_norm and instance_norm keep for their backward passes.

    Attributes:
        mean: (rows,) float64, rows in C order: the leading axes, or samples and groups; None for rms_norm.
        invstd: (rows,) float64, ``1 / sqrt(var + eps)``; for rms_norm of the mean square.
        axes: how many last axes make up a row; 0: ``groups`` says.
        groups: how many groups the channels were cut into; 0: ``axes`` says.
    """

    mean: NDArray[Any] | None
    invstd: NDArray[Any]
    axes: int
    groups: int


class Update(NamedTuple):
    """An optimizer update: the names of its states, its hyperparameters and their defaults, the bytes that a step moves
    for a float32 parameter, and which states are never negative."""

    name: str
    states: tuple[str, ...]
    hyperparameters: dict[str, float | bool]
    bytes_per_parameter: int
    positive: tuple[bool, ...]
