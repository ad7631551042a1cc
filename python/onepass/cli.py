"""The command ``onepass``."""

from __future__ import annotations

# What takes time to import is imported where it is used: an interrupt meanwhile is one line too.
import argparse
import contextlib
import math
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from onepass import data, nn, optim, schedules
    from onepass.history import History
    from onepass.trainer import Trainer

__all__ = ["main"]

OPTIMIZERS: dict[str, tuple[str, dict[str, float]]] = {
    # name -> class in onepass.optim, defaults of this command
    "sgd": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "adagrad": ("Adagrad", {"lr": 0.02}),
    "rmsprop": ("RMSprop", {"lr": 0.002, "momentum": 0.0}),
    "adam": ("Adam", {"lr": 0.003}),
    "adamw": ("AdamW", {"lr": 0.003, "weight_decay": 0.01}),
}
EXTRAS = ("scipy.linalg", "tqdm", "safetensors", "matplotlib.figure")
FILES = ("checkpoint.json", "curves.png", "history.json", "model.safetensors")
MAX_THREADS = 4096
DATA_FORMATS = """\
the data:
  digits    the handwritten digits of scikit-learn
  FILE.npz  arrays x (rows, ...) and y (rows,), or x_train and y_train, not both pairs; with either, x_test and
            y_test if there is a test set
  FILE.csv  numbers separated by commas; one column is the label: --label, or the one that the header calls label,
            labels, y, target or class (any case), else the last
  FOLDER    MNIST-format IDX files, plain or .gz: train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-...
Labels are the integers 0 .. C-1. Without a test set a fixed fifth of every class is set aside."""


class UsageError(Exception):
    """An option's value cannot be used; the message is one sentence."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"onepass: {message}\n")


class Output:
    """Lines on stdout. A stream that fails costs the lines only; ``error`` keeps why."""

    def __init__(self) -> None:
        self.error: OSError | None = None

    def line(self, text: str) -> None:
        stream = sys.stdout
        if stream is None or self.error is not None:  # None: closed before the start
            return
        try:
            try:
                print(text, flush=True)
            except UnicodeEncodeError:
                encoding = stream.encoding
                print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
        except OSError as error:
            self.error = error


def _flush(stream: TextIO | None) -> OSError | None:
    """Why ``stream`` cannot be written; what it still holds is then dropped, or Python would complain at its exit."""
    if stream is None:
        return None
    try:
        stream.flush()
    except OSError as error:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        except OSError:  # no file at all
            pass
        return error
    return None


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
            raise argparse.ArgumentTypeError(f"{text!r:.40}, expected a finite number >= {minimum:g}{limit}")
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


def _nonempty(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def _parser(version: str) -> Parser:
    parser = Parser(prog="onepass", description="Fused CPU training kernels, and a trainer on top.")
    parser.add_argument("--version", action="version", version=f"onepass {version}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="train | info")
    commands.add_parser("info", help="version, instruction-set levels, threads, OpenMP runtimes")
    train = commands.add_parser(
        "train",
        help="train a classifier",
        description="Train a multilayer perceptron; write checkpoint, history and curves.",
        epilog=DATA_FORMATS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    count = _integer(1)
    add = train.add_argument
    add("data", type=_nonempty, help="digits, FILE.npz, FILE.csv or a folder of MNIST-format IDX files: see below")
    add("--label", type=_nonempty, metavar="COLUMN", help="of FILE.csv: name in the header, or number from 1")
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
    add("--threads", type=_integer(1, MAX_THREADS), metavar="N", help="changes no bit of the result (default: all)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default: %(default)s")
    add("--out", type=_nonempty, metavar="DIR", help="default: runs/NAME")
    return parser


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
    return make(parameters, **settings)


def _schedule(options: argparse.Namespace, lr: float, steps: int) -> schedules.Schedule:
    """``steps`` is the length of an epoch."""
    from onepass import schedules

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
    from onepass import nn

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


def _missing(folder: Path) -> list[Path]:
    """``folder`` and those above it that are not there, the uppermost first."""
    missing: list[Path] = []
    while not os.path.lexists(folder) and folder != folder.parent:
        missing.insert(0, folder)
        folder = folder.parent
    return missing


def _remove(folders: list[Path]) -> None:
    with contextlib.suppress(OSError):  # one that is not empty keeps those above it
        for folder in reversed(folders):
            folder.rmdir()


def _check_out(out: Path) -> None:
    """Before an hour of training rather than after it."""
    import tempfile

    missing = _missing(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(prefix=".onepass-", dir=out).cleanup()
    except FileExistsError:
        raise UsageError(f"argument --out: {out} is not a folder") from None
    except OSError as error:
        raise UsageError(f"argument --out: cannot write in {out}: {error.strerror}") from None
    finally:
        _remove(missing)
    for name in FILES:
        if (out / name).is_dir():
            raise UsageError(f"argument --out: {out / name} is a folder, expected a file or nothing")


def _write(out: Path, trainer: Trainer, scaling: data.Scaling, meta: dict[str, Any], history: History) -> None:
    """Everything in a folder of its own first, then moved to ``out``: a failure leaves nothing behind."""
    import shutil

    from onepass import checkpoint

    new = not out.exists()
    missing = _missing(out.parent)
    staging = (out.parent if new else out) / f".onepass-{os.getpid()}.tmp"
    try:
        staging.mkdir(parents=True)
        arrays = {"feature_mean": scaling.mean, "feature_std": scaling.std}
        checkpoint.save(staging, trainer.model, trainer.optimizer, meta, arrays)
        (staging / "history.json").write_text(checkpoint.strict_json(history), encoding="utf-8")
        history.plot(staging / "curves.png", held_out="test")
        if new:
            os.replace(staging, out)
        else:
            for name in FILES:
                os.replace(staging / name, out / name)
        shutil.rmtree(staging, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(staging, ignore_errors=True)
        _remove(missing)
        if isinstance(error, OSError):
            raise UsageError(f"cannot write the result in {out}: {error.strerror or error}") from None
        raise


def _train(options: argparse.Namespace, output: Output) -> int:
    from pathlib import Path

    import onepass
    from onepass import data, losses
    from onepass._extras import require
    from onepass.callbacks import ProgressBar
    from onepass.trainer import DivergedError, Trainer

    out = Path(options.out or Path("runs") / (Path(options.data).resolve().stem or "data"))
    _check_out(out)
    if options.threads is not None:
        onepass.set_threads(options.threads)
    try:
        dataset = data.load(options.data, options.label)
    except data.DataError as error:
        raise UsageError(str(error).replace("choose one with label", "choose one with --label")) from None
    for module in EXTRAS:
        require(module)
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    scaling = data.standardize(dataset.x)
    try:
        x = scaling.apply(dataset.x, options.dtype)
        x_test = scaling.apply(dataset.x_test, options.dtype)
    except data.DataError as error:
        raise UsageError(f"{options.data}: test set: {error}") from None
    if options.batch_norm and options.batch_size == 1:
        raise UsageError("argument --batch-size: 1, expected at least 2 with batch norm")
    model = _network(x.shape[1], dataset.classes, options)
    optimizer = _optimizer(options, model.parameters())
    lr = float(optimizer.param_groups[0]["lr"])
    schedule = _schedule(options, lr, -(-len(x) // options.batch_size))
    loss = losses.CrossEntropy(label_smoothing=options.label_smoothing)
    trainer = Trainer(model, loss, optimizer, schedule, [ProgressBar(held_out="test")], seed=options.seed)
    output.line(
        f"{options.data}: {len(x)} training and {len(x_test)} test rows, "
        f"{x.shape[1]} features, {dataset.classes} classes" + (f", label: {dataset.label}" if dataset.label else "")
    )
    try:
        history = trainer.fit(
            x,
            dataset.y,
            epochs=options.epochs,
            batch_size=options.batch_size,
            validation=(x_test, dataset.y_test),
            drop_last=options.batch_norm and len(x) % options.batch_size == 1,  # a last batch of one
        )
    except DivergedError as error:
        return _fail(1, f"{error.args[0]}; lower --lr or raise --warmup")
    settings = {name: value for name, value in vars(options).items() if name != "command"}
    last = history[-1]
    meta = {
        "settings": {**settings, "out": str(out), "lr": lr},
        "features": x.shape[1],
        "classes": dataset.classes,
        "epoch": trainer.epoch,
        "step": trainer.step,
        "test_accuracy": last["validation_accuracy"],
        "version": onepass.__version__,
    }
    _write(out, trainer, scaling, meta, history)
    output.line(history.table(held_out="test"))
    output.line(f"test accuracy {last['validation_accuracy']:.2%}")
    output.line(f"wrote {', '.join(FILES)} in {out}")
    if output.error is not None and not isinstance(output.error, BrokenPipeError):
        _fail(2, f"cannot print the table to stdout: {output.error.strerror}; the result is in {out}")
    bad = [record["epoch"] for record in history if not math.isfinite(record["validation_loss"])]
    if bad:
        where = f"epoch {bad[0]}" if len(bad) == 1 else f"{len(bad)} epochs, first {bad[0]}"
        _fail(1, f"the test loss is not finite in {where}; lower --lr, or look for outliers in the test rows")
    return 0 if math.isfinite(last["validation_loss"]) else 1


def _info(output: Output) -> int:
    import onepass

    for name, value in onepass.info().items():
        if name == "openmp":
            value = (
                "threadpoolctl is not installed; pip install 'onepass[train]'"
                if value is None
                else ", ".join(f"{r['filepath']} ({r['num_threads']})" for r in value) or "none"
            )
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value))
        output.line(f"{name:14}{value}")
    if output.error is not None and not isinstance(output.error, BrokenPipeError):
        _fail(2, f"cannot print to stdout: {output.error.strerror}")
    return 0


def _run(arguments: Sequence[str] | None, output: Output) -> int:
    try:
        import onepass

        options = _parser(onepass.__version__).parse_args(arguments)
        return _train(options, output) if options.command == "train" else _info(output)
    except MemoryError as error:
        return _fail(1, f"not enough memory: {error}")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(2, f"{where}{error.strerror or error}")
    except (UsageError, ImportError) as error:
        return _fail(2, str(error))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns 0; 2 for what the user can mend; 1 for a run that diverged; 130 when interrupted; 141, as of a program
    that SIGPIPE ends, where stdout is a closed pipe (the result is written nevertheless).
    """
    output = Output()
    try:
        code = _run(arguments, output)
    except KeyboardInterrupt:
        code = _fail(130, "interrupted")
    except SystemExit as exit:  # argparse, after its message
        code = exit.code if isinstance(exit.code, int) else 2
    error = _flush(sys.stdout) or output.error
    if error is not None and code == 0:
        code = 141 if isinstance(error, BrokenPipeError) else 2
    _flush(sys.stderr)
    return code


def _fail(code: int, message: str) -> int:
    with contextlib.suppress(OSError):  # nobody to tell
        print("onepass:", " ".join(message.split()), file=sys.stderr, flush=True)
    return code
