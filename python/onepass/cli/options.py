"""The command's arguments."""

from __future__ import annotations

import argparse
import math
import sys
from typing import TYPE_CHECKING, NoReturn

from onepass.cli.results import ACTIVATIONS
from onepass.cli.schedules import SCHEDULES

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OPTIMIZERS", "parser"]

OPTIMIZERS: dict[str, tuple[str, dict[str, float]]] = {
    # name -> class in onepass.optim, defaults of this command
    "sgd": ("SGD", {"lr": 0.1, "momentum": 0.9}),
    "adagrad": ("Adagrad", {"lr": 0.02}),
    "rmsprop": ("RMSprop", {"lr": 0.002, "momentum": 0.0}),
    "adadelta": ("Adadelta", {"lr": 1.0}),
    "adam": ("Adam", {"lr": 0.003}),
    "adamw": ("AdamW", {"lr": 0.003, "weight_decay": 0.01}),
    "adamax": ("Adamax", {"lr": 0.006}),
    "nadam": ("NAdam", {"lr": 0.003}),
    "radam": ("RAdam", {"lr": 0.003}),
    "lion": ("Lion", {"lr": 0.0005}),
    "lamb": ("LAMB", {"lr": 0.01}),
}
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


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line."""

    closing: Callable[[], str] | None = None
    """What stands at the end of the help, made when it is asked for."""

    def format_help(self) -> str:
        if self.closing is not None:
            self.epilog = self.closing()
        return super().format_help()

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


def _chapters() -> str:
    from onepass.lecture import find

    return f"the chapters: {', '.join(find.names()) or 'none found'}"


def _chapter(text: str) -> str:
    from onepass.lecture import find

    names = find.names()
    if text not in names:
        raise argparse.ArgumentTypeError(f"{text!r:.40} is no chapter, expected one of {', '.join(names)}")
    return text


def parser(version: str) -> Parser:
    """Of the whole command; ``command`` in what it returns names the module that runs it."""
    top = Parser(prog="onepass", description="Fused CPU training kernels, and a trainer on top.")
    top.add_argument("--version", action="version", version=f"onepass {version}")
    commands = top.add_subparsers(
        dest="command", required=True, metavar="train | evaluate | predict | export | lecture | info"
    )
    _train_options(
        commands.add_parser(
            "train",
            help="train a classifier",
            description="Train a multilayer perceptron; write checkpoint, history and curves.",
            epilog=DATA_FORMATS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    evaluate = commands.add_parser(
        "evaluate",
        help="loss, accuracy and a report for each class",
        description="Evaluate what `onepass train` wrote, on its own test rows or on other data.",
    )
    _trained(evaluate)
    evaluate.add_argument(
        "data",
        nargs="?",
        type=_nonempty,
        help="as in `onepass train`: its test rows, or all rows where it has no test set of its own; default: the test "
        "rows of the training",
    )
    evaluate.add_argument("--label", type=_nonempty, metavar="COLUMN", help="of FILE.csv, as in `onepass train`")
    evaluate.add_argument("--confusion", type=_nonempty, metavar="FILE.png", help="draw the confusion matrix")
    predict = commands.add_parser(
        "predict",
        help="classes, or their probabilities, of rows without labels",
        description="Predict the class of each row with what `onepass train` wrote; one line a row.",
    )
    _trained(predict)
    predict.add_argument(
        "data",
        type=_nonempty,
        help="FILE.npy, FILE.npz (array x or x_test, or its only array), FILE.csv of the features, a FOLDER or a FILE "
        "of MNIST-format images, or digits",
    )
    predict.add_argument("--label", type=_nonempty, metavar="COLUMN", help="a column of FILE.csv that is left out")
    predict.add_argument("--probabilities", action="store_true", help="all classes' probabilities after the class")
    predict.add_argument("--out", type=_nonempty, metavar="FILE", help="FILE.csv or FILE.npy (default: stdout)")
    export = commands.add_parser(
        "export",
        help="an ONNX file for inference",
        description="Write what `onepass train` wrote as an ONNX model of the raw features, scaling included.",
    )
    _trained(export)
    export.add_argument("file", nargs="?", type=_nonempty, metavar="FILE.onnx", help="default: FOLDER/model.onnx")
    export.add_argument("--softmax", action="store_true", help="probabilities in place of logits")
    lecture = commands.add_parser(
        "lecture",
        help="the pictures of the lecture, as a page",
        description="Compute every picture of the lecture on why training fails and what helps; write them, their "
        "numbers, and one HTML page that explains them.",
    )
    lecture.closing = _chapters
    _lecture_options(lecture)
    commands.add_parser("info", help="version, instruction-set levels, threads, OpenMP runtimes")
    return top


def _trained(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=_nonempty, metavar="FOLDER", help="that `onepass train` wrote: runs/NAME")


def _lecture_options(lecture: argparse.ArgumentParser) -> None:
    add = lecture.add_argument
    add("--only", type=_chapter, action="append", metavar="NAME", help="this chapter alone; may be given again")
    add("--out", type=_nonempty, default="lecture", metavar="DIR", help="default: %(default)s")


def _train_options(train: argparse.ArgumentParser) -> None:
    count = _integer(1)
    add = train.add_argument
    add("data", type=_nonempty, help="digits, FILE.npz, FILE.csv or a folder of MNIST-format IDX files: see below")
    add("--label", type=_nonempty, metavar="COLUMN", help="of FILE.csv: name in the header, or number from 1")
    add("--mmap", action="store_true", help="leave the features in FILE.npz (numpy.savez): for data larger than memory")
    add("--epochs", type=count, default=25, metavar="N", help="default: %(default)s")
    add("--batch-size", type=count, default=64, metavar="N", help="default: %(default)s")
    add("--optimizer", choices=OPTIMIZERS, default="adam", help="default: %(default)s")
    rates = ", ".join(f"{name} {defaults['lr']}" for name, (_, defaults) in OPTIMIZERS.items())
    add("--lr", type=_number(0), metavar="X", help=f"default: {rates}")
    add("--momentum", type=_number(0), metavar="X", help="default: sgd 0.9, rmsprop 0")
    add("--weight-decay", type=_number(0), metavar="X", help="default: 0, adamw 0.01")
    add(
        "--schedule",
        choices=SCHEDULES,
        default="cosine",
        help="of the learning rate; step: a tenth after each third; exponential: to a hundredth; one-cycle and cyclic: "
        "up to --lr and down again (default: %(default)s)",
    )
    add("--warmup", type=_number(0), default=0, metavar="EPOCHS", help="linear (default: none)")
    add("--label-smoothing", type=_number(0, 1), default=0.1, metavar="X", help="default: 0.1")
    add("--hidden", type=_sizes, default="128,128", metavar="N,N", help="or none; default: 128,128")
    add("--activation", choices=ACTIVATIONS, default="relu", help="default: %(default)s")
    add("--dropout", type=_number(0, 1), default=0, metavar="P", help="after each hidden layer (default: none)")
    add("--batch-norm", action=argparse.BooleanOptionalAction, default=True, help="default: on")
    add("--seed", type=_integer(0, 2**63 - 1), default=0, metavar="N", help="default: 0")
    add("--threads", type=_integer(1, MAX_THREADS), metavar="N", help="changes no bit of the result (default: all)")
    add("--dtype", choices=("float32", "float64"), default="float32", help="default: %(default)s")
    add("--accumulate", type=count, default=1, metavar="N", help="batches whose gradients make one step (default: 1)")
    add("--max-norm", type=_number(0), metavar="X", help="clip the gradient's norm (default: no)")
    add("--ema", type=_number(0, 1), metavar="DECAY", help="evaluate and keep an average of the parameters")
    add("--early-stopping", type=count, metavar="N", help="stop N epochs after the lowest test loss; keep the best")
    add("--resume", action="store_true", help="save the run in DIR/checkpoints, and go on from there if it was stopped")
    add("--save-every", type=count, metavar="STEPS", help="with --resume: save within epochs too")
    add("--tensorboard", action="store_true", help="write curves for TensorBoard in DIR/tensorboard")
    add("--lr-find", action="store_true", help="no training: suggest a learning rate, and draw DIR/lr-find.png")
    add("--out", type=_nonempty, metavar="DIR", help="default: runs/NAME")
