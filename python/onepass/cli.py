"""The command ``onepass``."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import onepass
from onepass import checkpoint, data, losses, nn, optim, schedules
from onepass._extras import require
from onepass.history import History
from onepass.trainer import DivergedError, Trainer

__all__ = ["main"]

OPTIMIZERS: dict[str, tuple[Callable[..., optim.Optimizer], dict[str, float]]] = {
    # name -> class, defaults of this command
    "sgd": (optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "adagrad": (optim.Adagrad, {"lr": 0.02}),
    "rmsprop": (optim.RMSprop, {"lr": 0.002, "momentum": 0.0}),
    "adam": (optim.Adam, {"lr": 0.003}),
    "adamw": (optim.AdamW, {"lr": 0.003, "weight_decay": 0.01}),
}
EXTRAS = ("scipy.linalg", "tqdm", "safetensors", "matplotlib.figure")


class UsageError(Exception):
    """An option's value cannot be used; the message is one sentence."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"onepass: {message}\n")


def _integer(minimum: int, maximum: int = 2**31 - 1) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if not minimum <= value <= maximum:
            raise argparse.ArgumentTypeError(f"{text!r:.40}, expected an integer from {minimum} to {maximum}")
        return value

    return convert


def _number(minimum: float, maximum: float = sys.float_info.max) -> Callable[[str], float]:
    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not minimum <= value <= maximum:
            limit = "" if maximum == sys.float_info.max else f" and <= {maximum:g}"
            raise argparse.ArgumentTypeError(f"{text!r:.40}, expected a number >= {minimum:g}{limit}")
        return value

    return convert


def _sizes(text: str) -> list[int]:
    if text in ("", "none"):
        return []
    try:
        sizes = [int(part) for part in text.split(",")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}, expected sizes such as 128,128, or none")
    return sizes


def _parser() -> Parser:
    parser = Parser(prog="onepass", description="Fused CPU training kernels, and a trainer on top.")
    parser.add_argument("--version", action="version", version=f"onepass {onepass.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train | info")
    commands.add_parser("info", help="version, instruction-set levels, threads, OpenMP runtimes")
    train = commands.add_parser(
        "train",
        help="train a classifier",
        description="Train a multilayer perceptron; write checkpoint, history and curves.",
    )
    count = _integer(1)
    add = train.add_argument
    add("data", help="digits, FILE.npz, FILE.csv or a folder of MNIST-format IDX files")
    add("--epochs", type=count, default=25, metavar="N", help="default: %(default)s")
    add("--batch-size", type=count, default=64, metavar="N", help="default: %(default)s")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="default: %(default)s")
    rates = ", ".join(f"{name} {defaults['lr']}" for name, (_, defaults) in OPTIMIZERS.items())
    add("--lr", type=_number(0), metavar="X", help=f"default: {rates}")
    add("--momentum", type=_number(0), metavar="X", help="default: sgd 0.9, rmsprop 0")
    add("--weight-decay", type=_number(0), metavar="X", help="default: 0, adamw 0.01")
    add(
        "--schedule",
        choices=("constant", "step", "cosine"),
        default="cosine",
        help="of the learning rate; step: a tenth after each third (default: %(default)s)",
    )
    add("--warmup", type=_number(0), default=0, metavar="EPOCHS", help="linear (default: none)")
    add("--label-smoothing", type=_number(0, 1), default=0.1, metavar="X", help="default: 0.1")
    add("--hidden", type=_sizes, default="128,128", metavar="N,N", help="or none; default: 128,128")
    add("--batch-norm", action=argparse.BooleanOptionalAction, default=True, help="default: on")
    add("--seed", type=_integer(0, 2**63 - 1), default=0, metavar="N", help="default: 0")
    add("--threads", type=count, metavar="N", help="changes no bit of the result (default: all)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default: %(default)s")
    add("--out", type=Path, metavar="DIR", help="default: runs/NAME")
    return parser


def _optimizer(options: argparse.Namespace, parameters: list[Any]) -> optim.Optimizer:
    make, defaults = OPTIMIZERS[options.optimizer]
    settings = dict(defaults)
    for name in ("lr", "momentum", "weight_decay"):
        value = getattr(options, name)
        if value is not None:
            if name == "momentum" and name not in defaults:
                raise UsageError(f"argument --momentum: {options.optimizer} has none")
            settings[name] = value
    return make(parameters, **settings)


def _schedule(options: argparse.Namespace, lr: float, steps: int) -> schedules.Schedule:
    """``steps`` is the length of an epoch."""
    total = steps * options.epochs
    warmup = round(steps * options.warmup)
    if warmup >= total:
        raise UsageError(f"argument --warmup: {options.warmup:g} epochs, expected less than {options.epochs}")
    rest = total - warmup
    schedule = {
        "constant": lambda: schedules.constant(lr),
        "step": lambda: schedules.step_decay(lr, every=-(-rest // 3)),
        "cosine": lambda: schedules.cosine(lr, rest),
    }[options.schedule]()
    if warmup:
        return schedules.join([schedules.linear_warmup(lr, warmup), schedule], [warmup])
    return schedule


def _network(features: int, classes: int, options: argparse.Namespace) -> nn.Sequential:
    layers: list[nn.Layer] = []
    width = features
    for size in options.hidden:
        layers.append(nn.Linear(width, size, bias=not options.batch_norm, dtype=options.dtype))
        if options.batch_norm:
            layers.append(nn.BatchNorm(size, dtype=options.dtype))
        layers.append(nn.ReLU())
        width = size
    layers.append(nn.Linear(width, classes, dtype=options.dtype))
    return nn.Sequential(*layers, seed=options.seed)


def _check_out(out: Path) -> None:
    """Before an hour of training rather than after it."""
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        tempfile.TemporaryDirectory(prefix=".onepass-", dir=place).cleanup()
    except OSError as error:
        raise UsageError(f"argument --out: cannot write in {place}: {error.strerror}") from None


def _write(out: Path, trainer: Trainer, scaling: data.Scaling, meta: dict[str, Any], history: History) -> list[Path]:
    """Everything beside ``out`` first, then moved there: a failure leaves nothing behind."""
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.parent / f".{out.name}.{os.getpid()}.tmp"
    try:
        checkpoint.save(
            staging,
            trainer.model,
            trainer.optimizer,
            meta,
            {"feature_mean": scaling.mean, "feature_std": scaling.std},
        )
        (staging / "history.json").write_text(json.dumps(history, indent=2) + "\n")
        history.plot(staging / "curves.png", held_out="test")
        names = sorted(path.name for path in staging.iterdir())
        if out.exists():
            for name in names:
                os.replace(staging / name, out / name)
        else:
            os.replace(staging, out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [out / name for name in names]


def _train(options: argparse.Namespace) -> None:
    out = options.out or Path("runs") / (Path(options.data).resolve().stem or "data")
    _check_out(out)
    if options.threads is not None:
        try:
            onepass.set_threads(options.threads)
        except ValueError as error:
            raise UsageError(f"argument --threads: {error}") from None

    dataset = data.load(options.data)
    for module in EXTRAS:
        require(module)
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    scaling = data.standardize(dataset.x)
    x = scaling.apply(dataset.x, options.dtype)
    x_test = scaling.apply(dataset.x_test, options.dtype)
    if options.batch_norm and options.batch_size == 1:
        raise UsageError("argument --batch-size: 1, expected at least 2 with batch norm")
    model = _network(x.shape[1], dataset.classes, options)
    optimizer = _optimizer(options, model.parameters())
    lr = float(optimizer.param_groups[0]["lr"])
    schedule = _schedule(options, lr, -(-len(x) // options.batch_size))
    loss = losses.CrossEntropy(label_smoothing=options.label_smoothing)
    trainer = Trainer(model, loss, optimizer, schedule, seed=options.seed)
    print(
        f"{options.data}: {len(x)} training and {len(x_test)} test rows, "
        f"{x.shape[1]} features, {dataset.classes} classes",
        flush=True,
    )
    history = trainer.fit(
        x,
        dataset.y,
        epochs=options.epochs,
        batch_size=options.batch_size,
        validation=(x_test, dataset.y_test),
        verbose=True,
        drop_last=options.batch_norm and len(x) % options.batch_size == 1,  # a last batch of one
    )
    settings = {name: value for name, value in vars(options).items() if name != "command"}
    meta = {
        "settings": {**settings, "out": str(out), "lr": lr},
        "features": x.shape[1],
        "classes": dataset.classes,
        "epoch": trainer.epoch,
        "step": trainer.step,
        "test_accuracy": history[-1]["validation_accuracy"],
        "version": onepass.__version__,
    }
    written = _write(out, trainer, scaling, meta, history)
    print(history.table(held_out="test"))
    print(f"test accuracy {history[-1]['validation_accuracy']:.2%}")
    print(f"wrote {', '.join(path.name for path in written)} in {out}")


def _info() -> None:
    for name, value in onepass.info().items():
        if name == "openmp":
            value = (
                "threadpoolctl is not installed; pip install 'onepass[train]'"
                if value is None
                else ", ".join(f"{r['filepath']} ({r['num_threads']})" for r in value) or "none"
            )
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        print(f"{name:14}{value}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns 0, 2 for what the user can mend, 1 for a run that diverged."""
    options = _parser().parse_args(arguments)
    try:
        _train(options) if options.command == "train" else _info()
    except KeyboardInterrupt:
        return _fail(130, "interrupted")
    except DivergedError as error:
        return _fail(1, str(error))
    except MemoryError as error:
        return _fail(1, f"not enough memory: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(2, f"{where}{error.strerror or error}")
    except (UsageError, data.DataError, ImportError) as error:
        return _fail(2, str(error))
    return 0


def _fail(code: int, message: str) -> int:
    print("onepass:", " ".join(message.split()), file=sys.stderr)
    return code
