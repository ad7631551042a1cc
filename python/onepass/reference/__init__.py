"""The kernels in plain NumPy: same names, same signatures, same results; the oracle of the tests.

Everything but the optimizer updates is computed in float64 and rounded once at the end; the compiled kernels stay
within a few units in the last place of it. The optimizer updates use the kernels' own type and order of operations, so
that both give the same bits; their steps stand beside the classes in onepass/optim/.

``threads`` is accepted and ignored.
"""

from __future__ import annotations

import numpy as np

from onepass._storage import Rounding, memory_index
from onepass._subnormals import flush_subnormals
from onepass._types import (
    BatchNormSaved as BatchNormSaved,
    BatchNormStatistics as BatchNormStatistics,
    BatchNormSums as BatchNormSums,
    RowNormSaved as RowNormSaved,
    Update,
)
from onepass._update_functions import Call, UpdateFunction, make_update_function
from onepass.reference.activations import (
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
from onepass.reference.cross_entropy import (
    log_softmax as log_softmax,
    softmax as softmax,
    softmax_cross_entropy as softmax_cross_entropy,
)
from onepass.reference.dropout import dropout as dropout, dropout_backward as dropout_backward
from onepass.reference.gradients import global_norm as global_norm
from onepass.reference.images import (
    avg_pool2d as avg_pool2d,
    avg_pool2d_backward as avg_pool2d_backward,
    conv2d as conv2d,
    conv2d_backward as conv2d_backward,
    max_pool2d as max_pool2d,
    max_pool2d_backward as max_pool2d_backward,
)
from onepass.reference.linear import linear as linear, linear_backward as linear_backward
from onepass.reference.linear_cross_entropy import linear_cross_entropy as linear_cross_entropy
from onepass.reference.losses import (
    binary_cross_entropy_with_logits as binary_cross_entropy_with_logits,
    huber_loss as huber_loss,
    mean_squared_error as mean_squared_error,
    nll_loss as nll_loss,
    smooth_l1_loss as smooth_l1_loss,
)
from onepass.reference.normalization import batch_norm as batch_norm, batch_norm_backward as batch_norm_backward
from onepass.reference.normalization_parts import (
    batch_norm_apply as batch_norm_apply,
    batch_norm_backward_apply as batch_norm_backward_apply,
    batch_norm_backward_sums as batch_norm_backward_sums,
    batch_norm_statistics as batch_norm_statistics,
    merge_statistics as merge_statistics,
)
from onepass.reference.row_normalization import (
    group_norm as group_norm,
    group_norm_backward as group_norm_backward,
    instance_norm as instance_norm,
    instance_norm_backward as instance_norm_backward,
    layer_norm as layer_norm,
    layer_norm_backward as layer_norm_backward,
    rms_norm as rms_norm,
    rms_norm_backward as rms_norm_backward,
)


def __getattr__(name: str) -> UpdateFunction:
    # the optimizer updates: their steps are registered by the files of onepass.optim
    import onepass.optim  # noqa: F401
    from onepass._update_steps import STEPS

    if name not in STEPS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = globals()[name] = _update_function(name)
    return function


def _update_function(name: str) -> UpdateFunction:
    from onepass._stored_step import stored_step
    from onepass._update_steps import STEPS, describe_step

    step = STEPS[name]
    update: Update = describe_step(name)

    def run(call: Call) -> None:
        with flush_subnormals(), np.errstate(all="ignore"):
            for i, (param, grad, *states) in enumerate(zip(*call.arrays, strict=True)):
                rounding = None
                if call.stochastic_rounding:
                    rounding = Rounding(call.seed, call.hyper["step"], i, 0, memory_index(param))
                stored_step(step, update, param, grad, states, call.hyper, rounding)

    return make_update_function(update, run, __name__)
