"""``onepass train``."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onepass.cli.options import OPTIMIZERS
from onepass.cli.output import Output, UsageError, fail
from onepass.cli.results import FILES, check_out, network, write
from onepass.cli.schedules import schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from onepass import callbacks, data, optim
    from onepass.trainer import Trainer

__all__ = ["run"]

EXTRAS = ("scipy.linalg", "tqdm", "safetensors", "matplotlib.figure")


def _optimizer(options: argparse.Namespace, parameters: list[Any]) -> optim.Optimizer:
    from onepass import optim

    name, defaults = OPTIMIZERS[options.optimizer]
    make: Callable[..., optim.Optimizer] = getattr(optim, name)
    settings = dict(defaults)
    for name in ("lr", "momentum", "weight_decay"):
        value = getattr(options, name)
        if value is not None:
            if name == "momentum" and name not in defaults:
                raise UsageError(f"argument --momentum: {options.optimizer} has none")
            settings[name] = value
    return make(parameters, max_norm=options.max_norm, **settings)


def _callbacks(options: argparse.Namespace, out: Path) -> list[callbacks.Callback]:
    from onepass import callbacks

    found: list[callbacks.Callback] = []
    if options.ema is not None:
        found.append(callbacks.EMA(options.ema))
    if options.early_stopping is not None:
        found.append(callbacks.EarlyStopping("validation_loss", patience=options.early_stopping))
    if options.tensorboard:
        found.append(callbacks.TensorBoard(out / "tensorboard"))
    return [*found, callbacks.ProgressBar(held_out="test")]


def _batches(options: argparse.Namespace) -> tuple[data.Dataset, data.Scaling, data.Batches, data.Batches]:
    """The data set, the scaling of its training rows, and training and test rows scaled."""
    from onepass import data

    try:
        dataset = data.load(options.data, options.label, mmap=options.mmap)
    except data.DataError as error:
        raise UsageError(str(error).replace("choose one with label", "choose one with --label")) from None
    try:
        scaling = data.standardize(dataset.x)
    except data.DataError as error:  # a memory map, which nobody has looked at
        raise UsageError(f"{options.data}: training rows: {error}") from None
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    drop_last = options.batch_norm and len(dataset.x) % options.batch_size == 1  # a last batch of one
    how: dict[str, Any] = {}
    x: data.RowSequence = dataset.x
    x_test: data.RowSequence = dataset.x_test
    if options.mmap:
        standardize = data.transforms.Standardize(scaling.mean, scaling.std, options.dtype)
        how = {"transform": [flatten, standardize], "prefetch": 2}
    else:
        try:
            x, x_test = scaling.apply(x, options.dtype), scaling.apply(x_test, options.dtype)
        except data.DataError as error:
            raise UsageError(f"{options.data}: test set: {error}") from None
    training = data.Batches(x, dataset.y, options.batch_size, seed=options.seed, drop_last=drop_last, **how)
    test = data.Batches(x_test, dataset.y_test, 1024, shuffle=False, **how)
    return dataset, scaling, training, test


def flatten(x: Any, y: Any, generator: Any) -> tuple[Any, Any]:
    """A transform: rows of features."""
    return x.reshape(len(x), -1), y


def _find(trainer: Trainer, batches: data.Batches, out: Path, output: Output) -> int:
    """Suggests a learning rate."""
    from onepass.tuning import lr_find

    found = lr_find(trainer, batches)
    out.mkdir(parents=True, exist_ok=True)
    found.plot(out / "lr-find.png")
    output.line(f"suggested learning rate {found.suggestion:.2g}; wrote lr-find.png in {out}")
    output.complain("the suggestion to stdout")
    return 0


def run(options: argparse.Namespace, output: Output) -> int:
    import onepass
    from onepass import checkpoint, losses
    from onepass._extras import require
    from onepass.trainer import DivergedError, Trainer

    out = Path(options.out or Path("runs") / (Path(options.data).resolve().stem or "data"))
    check_out(out)
    if options.save_every is not None and not options.resume:
        raise UsageError("argument --save-every: expected together with --resume")
    if options.threads is not None:
        onepass.set_threads(options.threads)
    dataset, scaling, training, test = _batches(options)
    features = len(scaling.mean)
    for module in (*EXTRAS, *(["tensorboardX"] if options.tensorboard else [])):
        require(module, "tensorboard" if module == "tensorboardX" else "train")
    if options.batch_norm and options.batch_size == 1:
        raise UsageError("argument --batch-size: 1, expected at least 2 with batch norm")
    model = network(features, dataset.classes, vars(options))
    optimizer = _optimizer(options, model.parameters())
    lr = float(optimizer.param_groups[0]["lr"])
    rate = schedule(options.schedule, lr, options.epochs, -(-len(training) // options.accumulate), options.warmup)
    loss = losses.CrossEntropy(label_smoothing=options.label_smoothing)
    watching = [] if options.lr_find else _callbacks(options, out)
    trainer = Trainer(model, loss, optimizer, rate, watching, seed=options.seed)
    output.line(
        f"{options.data}: {training.rows} training and {test.rows} test rows, "
        f"{features} features, {dataset.classes} classes" + (f", label: {dataset.label}" if dataset.label else "")
    )
    try:
        if options.lr_find:
            return _find(trainer, training, out, output)
        history = trainer.fit(
            training,
            epochs=options.epochs,
            validation=test,
            resume=out / "checkpoints" if options.resume else None,
            save_every=options.save_every,
            accumulate=options.accumulate,
        )
    except DivergedError as error:
        return fail(1, f"{error.args[0]}; lower --lr or raise --warmup")
    except checkpoint.CheckpointError as error:
        raise UsageError(f"cannot resume: {error}") from None
    settings = {name: value for name, value in vars(options).items() if name != "command"}
    accuracy = trainer.evaluate(test)["accuracy"]  # of the parameters that are kept
    meta = {
        "settings": {**settings, "out": str(out), "lr": lr},
        "features": features,
        "classes": dataset.classes,
        "epoch": trainer.epoch,
        "step": trainer.step,
        "test_accuracy": accuracy,
        "version": onepass.__version__,
    }
    write(out, trainer, scaling, meta, history)
    output.line(history.table(held_out="test"))
    output.line(f"test accuracy {accuracy:.2%}")
    output.line(f"wrote {', '.join(FILES)} in {out}")
    output.complain(f"the table to stdout; the result is in {out}")
    bad = [record["epoch"] for record in history if not math.isfinite(record["validation_loss"])]
    if bad:
        where = f"epoch {bad[0]}" if len(bad) == 1 else f"{len(bad)} epochs, first {bad[0]}"
        fail(1, f"the test loss is not finite in {where}; lower --lr, or look for outliers in the test rows")
    return 0 if math.isfinite(history[-1]["validation_loss"]) else 1
