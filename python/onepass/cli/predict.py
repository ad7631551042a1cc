"""``onepass predict``."""

from __future__ import annotations

import argparse
from pathlib import Path

from onepass.cli.output import Output, UsageError
from onepass.cli.results import read

__all__ = ["run"]


def run(options: argparse.Namespace, output: Output) -> int:
    import numpy as np

    from onepass import data, kernels

    suffix = Path(options.out).suffix.lower() if options.out is not None else ""
    if options.out is not None and suffix not in (".csv", ".npy"):
        raise UsageError(f"argument --out: {options.out}, expected FILE.csv or FILE.npy")
    trained = read(options.folder)
    try:
        x = data.load_features(options.data, options.label, trained.meta["features"])
    except data.DataError as error:
        raise UsageError(str(error).replace("leave one out with label", "leave one out with --label")) from None
    logits = trained.predict(x, options.data)
    predicted = logits.argmax(axis=1)
    table = predicted
    if options.probabilities:
        table = np.column_stack([predicted, kernels.softmax(logits, out=logits)])
    if suffix == ".npy":
        np.save(options.out, table)
    else:
        digits = [".9g" if options.probabilities else "d"] * (table.shape[1] if table.ndim == 2 else 1)
        digits[0] = ".0f" if options.probabilities else "d"
        lines = [
            ",".join(format(number, form) for number, form in zip(np.atleast_1d(row), digits, strict=True))
            for row in table
        ]
        header = ",".join(["class", *(f"p{index}" for index in range(trained.meta["classes"]))])
        if options.probabilities or suffix:
            lines.insert(0, header if options.probabilities else "class")
        if suffix:
            Path(options.out).write_text("\n".join(lines) + "\n", encoding="utf-8")
        else:
            output.line("\n".join(lines))
            output.complain("the predictions to stdout")
    if options.out is not None:
        output.line(f"wrote {len(predicted)} predictions to {options.out}")
    return 0
