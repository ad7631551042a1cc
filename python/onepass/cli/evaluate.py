"""``onepass evaluate``."""

from __future__ import annotations

import argparse
from typing import Any

from onepass.cli.output import Output, UsageError
from onepass.cli.results import Trained, read

__all__ = ["run"]


def _dataset(trained: Trained, options: argparse.Namespace) -> tuple[Any, Any, str]:
    """Rows, labels, and what to call them."""
    from onepass import data

    settings = trained.meta["settings"]
    source = options.data or settings["data"]
    own = source == settings["data"]
    label = options.label if options.label is not None else settings["label"] if own else None
    try:
        mmap = own and settings.get("mmap", False)
        dataset = data.load(source, label, hold_out=own, classes=trained.meta["classes"], mmap=mmap)
    except data.DataError as error:
        raise UsageError(str(error).replace("choose one with label", "choose one with --label")) from None
    held_out = dataset.x_test is not None
    x, y = (dataset.x_test, dataset.y_test) if held_out else (dataset.x, dataset.y)
    return x, y, f"{source}: {'test ' if held_out else ''}rows"


def run(options: argparse.Namespace, output: Output) -> int:
    from onepass import losses, metrics
    from onepass._extras import require

    require("sklearn.metrics")
    trained = read(options.folder)
    x, y, rows = _dataset(trained, options)
    logits = trained.predict(x, rows)
    loss, _ = losses.CrossEntropy()(logits, y, False)
    predicted = logits.argmax(axis=1)
    report = require("sklearn.metrics").classification_report
    classes = list(range(trained.meta["classes"]))
    output.line(f"{rows}: {len(logits)}, loss {loss:.4f}, accuracy {(predicted == y).mean():.2%}")
    output.line(report(y, predicted, labels=classes, digits=4, zero_division=0).rstrip())
    output.complain("the report to stdout")
    if options.confusion is not None:
        metrics.plot_confusion_matrix(y, predicted, options.confusion)
        output.line(f"wrote {options.confusion}")
    return 0
