"""``onepass export``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from onepass.cli.output import Output
from onepass.cli.results import Trained, read

if TYPE_CHECKING:
    from onepass import nn

__all__ = ["run"]


def _of_raw_features(trained: Trained) -> list[nn.Layer]:
    """The layers with the scaling moved into the first: W ((x - m) / s) + b = (W / s) x + (b - (W / s) m)."""
    import numpy as np

    from onepass import nn

    first, *others = trained.model.layers
    assert isinstance(first, nn.Linear)
    weight = first.weight.astype(np.float64) / trained.scaling.std
    outputs, inputs = weight.shape
    merged = nn.Linear(inputs, outputs, dtype=first.weight.dtype)
    assert merged.bias is not None
    merged.weight[...] = weight
    merged.bias[...] = (0.0 if first.bias is None else first.bias) - weight @ trained.scaling.mean
    return [merged, *others]


def run(options: argparse.Namespace, output: Output) -> int:
    from onepass import nn, onnx

    trained = read(options.folder)
    file = Path(options.file) if options.file is not None else Path(options.folder) / "model.onnx"
    model = nn.Sequential(*_of_raw_features(trained), seed=None)
    onnx.export(model, file, (trained.meta["features"],), softmax=options.softmax)
    result = "probabilities" if options.softmax else "logits"
    output.line(f"wrote {file}: features (N, {trained.meta['features']}) to {result} (N, {trained.meta['classes']})")
    output.complain("to stdout")
    return 0
