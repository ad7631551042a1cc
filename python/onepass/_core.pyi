from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

_Array = NDArray[Any]

def version() -> str: ...
def isa() -> str: ...
def isa_levels() -> list[tuple[str, bool]]: ...
def set_threads(threads: int) -> None: ...
def get_threads() -> int: ...

class OpenMp:
    def __init__(self, library: int) -> None: ...
    def enter(self) -> None: ...
    def leave(self) -> None: ...

class Tensors:
    openmp: OpenMp | None
    def __init__(self, types: tuple[type, ...], to_dlpack: Any) -> None: ...
    def are_plain(self, *objects: Any) -> bool: ...
    def batch_norm(
        self,
        input: Any,
        weight: Any,
        bias: Any,
        running_mean: Any,
        running_var: Any,
        training: bool,
        momentum: float,
        eps: float,
        y: Any,
        saved: _Array,
    ) -> None: ...
    def batch_norm_backward(
        self,
        dy: Any,
        input: Any,
        weight: Any,
        saved: _Array,
        training: bool,
        dx: Any,
        dweight: Any,
        dbias: Any,
    ) -> None: ...
    def softmax_cross_entropy(
        self,
        input: Any,
        target: Any,
        weight: Any,
        ignore_index: int,
        label_smoothing: float,
        z_loss: float,
        reduction: int,
        losses: Any,
        gradient: Any,
    ) -> float: ...

def stream_limit(reads: list[_Array], updates: list[_Array], writes: list[_Array], threads: int = 0) -> None: ...
def update_registry() -> list[
    tuple[str, tuple[str, ...], tuple[tuple[str, float | bool], ...], tuple[bool, ...], int]
]: ...

class Plan:
    steps: list[int]
    def __init__(
        self,
        update: str,
        params: Sequence[_Array],
        states: Sequence[Sequence[_Array]],
        group_of: list[int],
        beside: dict[str, list[_Array | None]] = ...,
    ) -> None: ...
    def step(
        self,
        grads: list[_Array | None],
        groups: list[tuple[Any, ...]],
        grad_scale: float,
        max_value: float,
        threads: int,
    ) -> None: ...
    def step_at(
        self,
        addresses: list[int | None],
        groups: list[tuple[Any, ...]],
        grad_scale: float,
        max_value: float,
        threads: int,
    ) -> None: ...
    def show_grad(self, i: int, grad: _Array) -> None: ...
    def point_at(self, addresses: list[int | None]) -> None: ...
    def norm_at(self, addresses: list[int | None], threads: int = 0) -> float: ...
    def set_storage(self, stochastic: bool, seed: int, bits: bool) -> None: ...
    def set_average(self, i: int, weight: float, write_back: bool) -> None: ...
    def sums(self) -> list[tuple[float, float]]: ...

def same_objects(a: list[Any], b: list[Any]) -> bool: ...
def same_values(entries: dict[Any, Any], objects: list[Any]) -> bool: ...
def zero(arrays: list[_Array]) -> None: ...
def global_norm(arrays: list[_Array], threads: int = 0) -> float: ...
def softmax_cross_entropy(
    logits: _Array,
    targets: _Array,
    weight: _Array | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: int,
    n_classes: int,
    loss: _Array | None,
    grad: _Array | None,
    log_probabilities: _Array | None,
    bits: bool,
    threads: int,
) -> float: ...
def linear_cross_entropy(
    x: _Array,
    weight: _Array,
    bias: _Array | None,
    targets: _Array,
    class_weight: _Array | None,
    ignore_index: int,
    label_smoothing: float,
    z_loss: float,
    reduction: int,
    n_classes: int,
    loss: _Array | None,
    dx: _Array | None,
    dweight: _Array | None,
    dbias: _Array | None,
    threads: int,
) -> float: ...
def softmax(x: _Array, axis: int, out: _Array, bits: bool, threads: int) -> None: ...
def log_softmax(x: _Array, axis: int, out: _Array, bits: bool, threads: int) -> None: ...
def mean_squared_error(
    prediction: _Array,
    target: _Array,
    reduction: int,
    loss: _Array | None,
    grad: _Array | None,
    bits: bool,
    threads: int,
) -> float: ...
def huber_loss(
    prediction: _Array,
    target: _Array,
    delta: float,
    smooth_l1: bool,
    reduction: int,
    loss: _Array | None,
    grad: _Array | None,
    bits: bool,
    threads: int,
) -> float: ...
def binary_cross_entropy(
    logits: _Array,
    targets: _Array,
    weight: _Array | None,
    pos_weight: _Array | None,
    reduction: int,
    loss: _Array | None,
    grad: _Array | None,
    bits: bool,
    threads: int,
) -> float: ...
def nll_loss(
    log_probabilities: _Array,
    targets: _Array,
    weight: _Array | None,
    ignore_index: int,
    reduction: int,
    loss: _Array | None,
    grad: _Array | None,
    bits: bool,
    threads: int,
) -> float: ...
def activate(activation: int, negative_slope: float, x: _Array, out: _Array, bits: bool, threads: int) -> None: ...
def activate_backward(
    activation: int,
    negative_slope: float,
    dy: _Array,
    saved_name: str,
    saved: _Array,
    out: _Array,
    bits: bool,
    threads: int,
) -> None: ...
def bias_activate(
    activation: int,
    negative_slope: float,
    x: _Array,
    bias: _Array,
    channel_axis: int,
    out: _Array,
    bits: bool,
    threads: int,
) -> None: ...
def bias_activate_backward(
    activation: int,
    negative_slope: float,
    dy: _Array,
    x: _Array,
    bias: _Array,
    channel_axis: int,
    dx: _Array,
    dbias: _Array,
    bits: bool,
    threads: int,
) -> None: ...
def dropout(x: _Array, p: float, seed: int, step: int, out: _Array, bits: bool, threads: int) -> None: ...
def dropout_backward(dy: _Array, p: float, seed: int, step: int, out: _Array, bits: bool, threads: int) -> None: ...
def batch_norm(
    x: _Array,
    gamma: _Array | None,
    beta: _Array | None,
    running_mean: _Array | None,
    running_var: _Array | None,
    residual: _Array | None,
    training: bool,
    momentum: float,
    eps: float,
    channel_axis: int,
    relu: bool,
    population: bool,
    out: _Array,
    mean: _Array,
    invstd: _Array,
    bits: bool,
    threads: int,
) -> None: ...
def batch_norm_statistics(x: _Array, channel_axis: int, mean: _Array, m2: _Array, bits: bool, threads: int) -> None: ...
def batch_norm_apply(
    x: _Array,
    gamma: _Array | None,
    beta: _Array | None,
    running_mean: _Array | None,
    running_var: _Array | None,
    residual: _Array | None,
    count: int,
    mean: _Array,
    m2: _Array,
    momentum: float,
    eps: float,
    channel_axis: int,
    relu: bool,
    population: bool,
    out: _Array,
    invstd: _Array,
    bits: bool,
    threads: int,
) -> None: ...
def batch_norm_backward(
    dy: _Array,
    x: _Array,
    gamma: _Array | None,
    beta: _Array | None,
    mean: _Array,
    invstd: _Array,
    y: _Array | None,
    training: bool,
    channel_axis: int,
    relu: bool,
    dx: _Array,
    dgamma: _Array | None,
    dbeta: _Array | None,
    dresidual: _Array | None,
    bits: bool,
    threads: int,
) -> None: ...
def batch_norm_backward_sums(
    dy: _Array,
    x: _Array,
    gamma: _Array | None,
    beta: _Array | None,
    mean: _Array,
    invstd: _Array,
    y: _Array | None,
    training: bool,
    channel_axis: int,
    relu: bool,
    sum_dy: _Array,
    sum_dyx: _Array,
    bits: bool,
    threads: int,
) -> None: ...
def batch_norm_backward_apply(
    dy: _Array,
    x: _Array,
    gamma: _Array | None,
    beta: _Array | None,
    mean: _Array,
    invstd: _Array,
    y: _Array | None,
    training: bool,
    channel_axis: int,
    relu: bool,
    count: int,
    sum_dy: _Array,
    sum_dyx: _Array,
    dx: _Array,
    dgamma: _Array | None,
    dbeta: _Array | None,
    dresidual: _Array | None,
    bits: bool,
    threads: int,
) -> None: ...
def row_norm(
    x: _Array,
    gamma: _Array | None,
    beta: _Array | None,
    axes: int,
    groups: int,
    eps: float,
    out: _Array,
    mean: _Array | None,
    invstd: _Array,
    bits: bool,
    threads: int,
) -> None: ...
def row_norm_backward(
    dy: _Array,
    x: _Array,
    gamma: _Array | None,
    mean: _Array | None,
    invstd: _Array,
    axes: int,
    groups: int,
    dx: _Array,
    dgamma: _Array | None,
    dbeta: _Array | None,
    bits: bool,
    threads: int,
) -> None: ...
def set_blas(sgemm: object, dgemm: object, set_threads: int, get_threads: int) -> None: ...
def linear(x: _Array, weight: _Array, bias: _Array | None, relu: bool, out: _Array, threads: int) -> None: ...
def linear_backward(
    dy: _Array,
    x: _Array,
    weight: _Array,
    dx: _Array | None,
    dweight: _Array | None,
    dbias: _Array | None,
    threads: int,
) -> None: ...
def conv2d(
    x: _Array,
    weight: _Array,
    bias: _Array | None,
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    relu: bool,
    out: _Array,
    threads: int,
) -> None: ...
def conv2d_backward(
    dy: _Array,
    x: _Array,
    weight: _Array,
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dx: _Array | None,
    dweight: _Array | None,
    dbias: _Array | None,
    threads: int,
) -> None: ...
def max_pool2d(
    x: _Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], out: _Array, threads: int
) -> None: ...
def max_pool2d_backward(
    dy: _Array,
    x: _Array,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    out: _Array,
    threads: int,
) -> None: ...
def avg_pool2d(
    x: _Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], out: _Array, threads: int
) -> None: ...
def avg_pool2d_backward(
    dy: _Array, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int], out: _Array, threads: int
) -> None: ...
def xla_handlers(minor: int) -> dict[str, Any]: ...
