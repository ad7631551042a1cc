"""The kernels as functions on NumPy arrays: in place or with ``out=``, float32 and float64, any number of threads.

Everything is checked before the first byte is written. A wrong type raises TypeError, a wrong shape, layout or value
ValueError; the message names the argument. Results have the same bits with any ``threads`` and at any instruction-set
level. Subnormal numbers count as zero. :mod:`onepass.reference` has the same functions in plain NumPy.

The optimizer updates are made from the registry :data:`UPDATES`, one function each::

    kernels.adam(param, grad, exp_avg, exp_avg_sq, *, step, lr=1e-3, beta1=0.9, ..., threads=None)

A positional argument is an array, or a sequence of arrays of any shapes (one parallel region for all of them).
"""

from __future__ import annotations

from collections.abc import Sequence

from onepass import _core
from onepass._types import (
    BatchNormSaved as BatchNormSaved,
    BatchNormStatistics as BatchNormStatistics,
    BatchNormSums as BatchNormSums,
    RowNormSaved as RowNormSaved,
    Update,
)
from onepass._update_functions import Call, UpdateFunction, make_update_function
from onepass.kernels._arguments import Array, real as _real, thread_count as _thread_count
from onepass.kernels.activations import (
    bias_activation as bias_activation,
    bias_activation_backward as bias_activation_backward,
    gelu as gelu,
    gelu_backward as gelu_backward,
    leaky_relu as leaky_relu,
    leaky_relu_backward as leaky_relu_backward,
    relu as relu,
    relu_backward as relu_backward,
    sigmoid as sigmoid,
    sigmoid_backward as sigmoid_backward,
    silu as silu,
    silu_backward as silu_backward,
    tanh as tanh,
    tanh_backward as tanh_backward,
)
from onepass.kernels.cross_entropy import (
    log_softmax as log_softmax,
    softmax as softmax,
    softmax_cross_entropy as softmax_cross_entropy,
)
from onepass.kernels.dropout import dropout as dropout, dropout_backward as dropout_backward
from onepass.kernels.gradients import global_norm as global_norm
from onepass.kernels.images import (
    avg_pool2d as avg_pool2d,
    avg_pool2d_backward as avg_pool2d_backward,
    conv2d as conv2d,
    conv2d_backward as conv2d_backward,
    max_pool2d as max_pool2d,
    max_pool2d_backward as max_pool2d_backward,
)
from onepass.kernels.linear import linear as linear, linear_backward as linear_backward
from onepass.kernels.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from onepass.kernels.losses import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    huber_loss as huber_loss,
    mean_squared_error as mean_squared_error,
    nll_loss as nll_loss,
    smooth_l1_loss as smooth_l1_loss,
)
from onepass.kernels.normalization import batch_norm as batch_norm, batch_norm_backward as batch_norm_backward
from onepass.kernels.normalization_parts import (
    batch_norm_apply as batch_norm_apply,
    batch_norm_backward_apply as batch_norm_backward_apply,
    batch_norm_backward_sums as batch_norm_backward_sums,
    batch_norm_statistics as batch_norm_statistics,
    merge_statistics as merge_statistics,
)
from onepass.kernels.row_normalization import (
    group_norm as group_norm,
    group_norm_backward as group_norm_backward,
    instance_norm as instance_norm,
    instance_norm_backward as instance_norm_backward,
    layer_norm as layer_norm,
    layer_norm_backward as layer_norm_backward,
    rms_norm as rms_norm,
    rms_norm_backward as rms_norm_backward,
)

UPDATES: dict[str, Update] = {
    name: Update(name, states, dict(fields), bytes_moved, positive)
    for name, states, fields, positive, bytes_moved in _core.update_registry()
}
"""Every optimizer update: its states, its hyperparameters with their defaults, and the bytes that it moves for a
float32 parameter."""


def _update_function(update: Update) -> UpdateFunction:
    def run(call: Call) -> None:
        param, grad, *states = call.arrays
        hyper = call.hyper
        by_tensor: Sequence[Sequence[Array]] = list(zip(*states, strict=True)) if states else [()] * len(param)
        plan = _core.Plan(update.name, list(param), by_tensor, [0] * len(param))
        plan.set_storage(call.stochastic_rounding, call.seed, True)
        plan.steps = [hyper["step"] - 1] * len(param)
        values = (hyper["maximize"], *[hyper[name] for name in update.hyperparameters])
        scale = _real("grad_scale", hyper["grad_scale"])
        plan.step(list(grad), [values], scale, hyper["max_value"], _thread_count(call.threads))

    return make_update_function(update, run, __name__)


for _update in UPDATES.values():
    globals()[_update.name] = _update_function(_update)


def __getattr__(name: str) -> UpdateFunction:  # tells type checkers of the functions made above
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
