"""All cases. A topic a file; each exports `cases(selection)`."""

from __future__ import annotations

from fnmatch import fnmatchcase

from bench.case import Case
from bench.cases import (
    activations,
    batch_norm,
    batch_norm_variants,
    clipping,
    convolution,
    cross_entropy,
    data,
    imports,
    jax_step,
    many_tensors,
    numpy_loop,
    numpy_loop_step,
    python_cost,
    row_normalization,
    storage,
    torch_step,
    torch_step_alone,
    training,
    training_cnn,
    training_digits,
    updates,
    vanishing,
)
from bench.selection import Selection

TOPICS = (
    updates,
    storage,
    vanishing,
    jax_step,
    many_tensors,
    clipping,
    cross_entropy,
    batch_norm,
    batch_norm_variants,
    row_normalization,
    activations,
    convolution,
    training,
    training_cnn,
    training_digits,
    python_cost,
    numpy_loop,
    data,
    numpy_loop_step,
    torch_step,
    torch_step_alone,
    imports,
)


def selected(selection: Selection) -> list[Case]:
    found = [case for topic in TOPICS for case in topic.cases(selection)]
    patterns = [f"*{pattern}*" for pattern in selection.only] or ["*"]
    return [
        case
        for case in found
        if any(fnmatchcase(case.name, pattern) for pattern in patterns) and case.size in selection.classes
    ]
