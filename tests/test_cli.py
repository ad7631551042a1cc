"""The command onepass, run as a user runs it."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

import onepass
from onepass import checkpoint, cli

for extra in ("scipy", "sklearn", "tqdm", "safetensors", "matplotlib"):
    pytest.importorskip(extra)


def run(*arguments, cwd, **options):
    return subprocess.run(
        [sys.executable, "-m", "onepass", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


def assert_one_line(done, folder, code=2):
    """Exit code, one line on stderr, no traceback, nothing written."""
    assert done.returncode == code, done.stderr
    assert done.stderr.startswith("onepass: ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith("\n")
    assert not (folder / "runs").exists()
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def blobs(rows=90, features=4, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    return rng.normal(size=(rows, features)) + 4 * y[:, None], y


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def write_idx(folder, suffix=""):
    x, y = blobs(features=12)
    images = np.clip(x * 10 + 50, 0, 255).astype(np.uint8).reshape(-1, 4, 3)
    folder.mkdir()
    for part, rows in (("train", slice(0, 60)), ("t10k", slice(60, 90))):
        for kind, array in (("images", images[rows]), ("labels", y[rows].astype(np.uint8))):
            content = idx(array)
            path = folder / f"{part}-{kind}-idx{array.ndim}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)


def test_digits(tmp_path):
    done = run("train", "digits", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "digits: 1437 training and 360 test rows, 64 features, 10 classes"
    for word in ("epoch", "loss", "train accuracy", "test accuracy", "learning rate", "seconds"):
        assert word in lines[1]
    assert len(lines) == 2 + 25 + 2
    accuracy = float(lines[-2].removeprefix("test accuracy ").removesuffix("%"))
    assert accuracy >= 97
    folder = tmp_path / "runs" / "digits"
    names = ["checkpoint.json", "curves.png", "history.json", "model.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert lines[-1] == f"wrote {', '.join(names)} in {folder.relative_to(tmp_path)}"
    assert len(done.stderr.splitlines()) == 25  # plain lines, not a bar: stderr is no terminal

    history = json.loads((folder / "history.json").read_text())
    assert len(history) == 25
    assert history[-1]["validation_accuracy"] == pytest.approx(accuracy / 100, abs=1e-4)
    assert (folder / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    loaded = checkpoint.load(folder)
    assert loaded.meta["test_accuracy"] == history[-1]["validation_accuracy"]
    assert loaded.arrays["feature_mean"].shape == (64,)


def test_the_seed_repeats_the_run_to_the_bit_at_any_thread_count(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = []
    try:
        for threads in "123":
            options = ["--epochs", "2", "--seed", "7", "--threads", threads, "--out", threads]
            assert cli.main(["train", "digits", *options]) == 0
            assert onepass.get_threads() == int(threads)
            arrays = load_tensors(tmp_path / threads / "model.safetensors")
            results.append({name: array.tobytes() for name, array in arrays.items()})
    finally:
        onepass.set_threads(None)
    assert len(results[0]) > 20  # parameters, statistics and the optimizer's states
    assert results[0] == results[1] == results[2]


def load_tensors(path):
    from safetensors.numpy import load_file

    return load_file(path)


@pytest.mark.parametrize("kind", ["npz", "npz with test rows", "csv", "idx", "idx.gz"])
def test_files(tmp_path, monkeypatch, capsys, kind):
    x, y = blobs()
    if kind.startswith("npz"):
        name = "blobs.npz"
        test = {"x_test": x[:30], "y_test": y[:30]} if "test" in kind else {}
        np.savez(tmp_path / name, x=x, y=y, **test)
    elif kind == "csv":
        name = "blobs.csv"
        table = np.c_[y, x]
        np.savetxt(tmp_path / name, table, delimiter=",", header="label,a,b,c,d", comments="")
    else:
        name = "blobs"
        write_idx(tmp_path / name, ".gz" if kind == "idx.gz" else "")
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "20", "--hidden", "16", "--batch-size", "16", "--lr", "0.02"]
    assert cli.main(["train", name, *options]) == 0
    out, _ = capsys.readouterr()
    assert float(out.splitlines()[-2].removeprefix("test accuracy ")[:-1]) >= 80
    assert (tmp_path / "runs" / "blobs" / "model.safetensors").exists()
    assert not [path for path in (tmp_path / "runs").iterdir() if path.name != "blobs"]


@pytest.mark.parametrize(
    "options",
    [
        "--optimizer sgd --lr 0.05 --momentum 0.8 --weight-decay 1e-4 --schedule step",
        "--optimizer adagrad --schedule constant --no-batch-norm --label-smoothing 0",
        "--optimizer rmsprop --momentum 0.5 --warmup 0.5 --hidden 8,8,8",
        "--optimizer adamw --weight-decay 0.1 --hidden none --dtype float64",
    ],
)
def test_options(tmp_path, monkeypatch, capsys, options):
    x, y = blobs()
    np.savez(tmp_path / "blobs.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    code = cli.main(["train", "blobs.npz", "--epochs", "3", "--out", "out", *options.split()])
    assert code == 0, capsys.readouterr().err
    settings = checkpoint.load(tmp_path / "out").meta["settings"]
    assert settings["optimizer"] in options
    assert settings["schedule"] == ("cosine" if "--sch" not in options else settings["schedule"])
    dtype = load_tensors(tmp_path / "out" / "model.safetensors")["model.0.weight"].dtype
    assert dtype == settings["dtype"]


@pytest.mark.parametrize("shape", [(4,), (2, 2)])
@pytest.mark.parametrize("test_rows", [True, False])
def test_mmap_changes_no_bit(tmp_path, monkeypatch, capsys, shape, test_rows):
    """Neither of the result nor of what evaluate says about it."""
    x, y = blobs()
    x = x.reshape(-1, *shape)
    test = {"x_test": x[:30], "y_test": y[:30]} if test_rows else {}
    np.savez(tmp_path / "blobs.npz", x=x, y=y, **test)
    monkeypatch.chdir(tmp_path)
    results = []
    for name, options in (("mapped", ["--mmap"]), ("memory", [])):
        arguments = ["train", "blobs.npz", "--epochs", "3", "--batch-size", "16", "--out", name, *options]
        assert cli.main(arguments) == 0, capsys.readouterr().err
        assert cli.main(["evaluate", name]) == 0
        printed = [line for line in capsys.readouterr().out.splitlines() if "blobs.npz" in line or "accuracy" in line]
        arrays = load_tensors(tmp_path / name / "model.safetensors")
        results.append((printed[0], printed[-3:], {name: array.tobytes() for name, array in arrays.items()}))
    assert results[0] == results[1]
    assert cli.main(["train", "blobs.npz", "--mmap", "--lr-find", "--out", "find"]) == 0


def test_mmap_refuses(tmp_path, monkeypatch, capsys):
    x, y = blobs()
    np.savez_compressed(tmp_path / "compressed.npz", x=x, y=y)
    bad = x.copy()
    bad[5, 1] = np.nan
    np.savez(tmp_path / "nan.npz", x_train=bad, y_train=y, x_test=x, y_test=y)
    np.savetxt(tmp_path / "a.csv", np.c_[x, y], delimiter=",")
    monkeypatch.chdir(tmp_path)
    for name, message in {
        "compressed.npz": "x is compressed and cannot be mapped; save it with numpy.savez",
        "nan.npz": "nan.npz: training rows: x holds NaN or inf in row 5",
        "a.csv": "a.csv cannot be mapped into memory, expected FILE.npz",
        "digits": "digits cannot be mapped into memory, expected FILE.npz",
    }.items():
        assert cli.main(["train", name, "--mmap", "--out", "out"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_writing_into_a_folder_that_is_there(tmp_path, monkeypatch):
    x, y = blobs()
    np.savez(tmp_path / "blobs.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for epochs in "12":
        assert cli.main(["train", "blobs.npz", "--epochs", epochs, "--out", "out"]) == 0
    assert len(json.loads((tmp_path / "out" / "history.json").read_text())) == 2
    assert len(list((tmp_path / "out").iterdir())) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blobs.npz", "out"]


def write_bad(folder):
    """name -> what the message has to say; the files are made in ``folder``."""
    x, y = blobs()
    np.savez(folder / "names.npz", a=x, b=y)
    np.savez(folder / "nan.npz", x=np.where(x > 9, np.nan, x), y=y)
    np.savez(folder / "one.npz", x=x, y=y * 0)
    np.savez(folder / "pickle.npz", x=np.array([{}], dtype=object), y=y)
    (folder / "zip.npz").write_bytes(b"not a zip at all")
    (folder / "ragged.csv").write_text("1,2,0\n1,1\n")
    (folder / "word.csv").write_text("a,b,label\n1,2,0\n1,two,1\n")
    (folder / "empty.csv").touch()
    (folder / "few.csv").write_text("1,2,0\n1,2,1\n")
    (folder / "file.txt").write_text("1,2,0\n")
    (folder / "folder").mkdir()
    write_idx(folder / "magic")
    (folder / "magic" / "train-images-idx3-ubyte").write_bytes(b"\x89PNG....")
    write_idx(folder / "short", ".gz")
    path = folder / "short" / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    return {
        "missing.npz": "does not exist",
        "names.npz": "expected arrays x and y",
        "nan.npz": "NaN or inf",
        "one.npz": "at least two classes",
        "pickle.npz": "never loaded",
        "zip.npz": "not an .npz archive",
        "ragged.csv": "line 2 has 2 cells",
        "word.csv": "line 3, cell 2 is 'two'",
        "empty.csv": "is empty",
        "few.csv": "too few",
        "file.txt": "neither .npz nor .csv",
        "folder": "has no file train-images",
        "magic": "magic number",
        "short": "truncated",
    }


def test_a_bad_file_is_one_line_and_nothing_is_written(tmp_path):
    for name, says in write_bad(tmp_path).items():
        done = run("train", name, cwd=tmp_path)
        assert_one_line(done, tmp_path)
        assert name in done.stderr
        assert says in done.stderr
        assert done.stdout == ""


BAD_OPTIONS = {
    "--epochs 0": "--epochs",
    "--epochs many": "--epochs",
    "--batch-size -3": "--batch-size",
    "--lr nan": "--lr",
    "--lr -1": "--lr",
    "--optimizer magic": "--optimizer",
    "--momentum 0.5": "adam has none",
    "--schedule zigzag": "--schedule",
    "--warmup 25": "--warmup",
    "--label-smoothing 2": "--label-smoothing",
    "--hidden 12,x": "--hidden",
    "--hidden 0": "--hidden",
    "--seed -1": "--seed",
    "--seed 99999999999999999999": "--seed",
    "--threads 0": "argument --threads: '0', expected an integer from 1 to 4096",
    "--threads 5000": "expected an integer from 1 to 4096",
    "--lr inf": "expected a finite number >= 0",
    "--label 1": "blobs.npz has no columns to choose from",
    "--dtype int8": "--dtype",
    "--out blobs.npz": "argument --out: blobs.npz is not a folder",
    "--out blobs.npz/a": "argument --out: cannot write in blobs.npz/a: Not a directory",
    "--out " + "a" * 300: "File name too long",
    "--bogus": "--bogus",
}


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_a_bad_option_is_one_line(tmp_path, monkeypatch, capsys, options):
    x, y = blobs()
    np.savez(tmp_path / "blobs.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(["train", "blobs.npz", *options.split()])
    except SystemExit as exit:  # from argparse
        code = exit.code
    out, err = capsys.readouterr()
    assert_one_line(subprocess.CompletedProcess([], code, out, err), tmp_path)
    assert BAD_OPTIONS[options] in err


def test_bad_options_from_outside(tmp_path):
    assert_one_line(run(cwd=tmp_path), tmp_path)
    assert_one_line(run("train", cwd=tmp_path), tmp_path)
    assert_one_line(run("train", "digits", "--lr", "x", cwd=tmp_path), tmp_path)


def test_a_run_that_diverges_is_one_line(tmp_path, monkeypatch, capsys):
    x, y = blobs()
    np.savez(tmp_path / "blobs.npz", x=x, y=y)
    monkeypatch.chdir(tmp_path)
    options = "--optimizer sgd --lr 1e30 --no-batch-norm --schedule constant"
    code = cli.main(["train", "blobs.npz", *options.split()])
    out, err = capsys.readouterr()
    assert_one_line(subprocess.CompletedProcess([], code, out, err), tmp_path, code=1)
    assert "epoch 1, batch 2 of 2, at learning rate 1e+30; lower --lr or raise --warmup" in err


@pytest.mark.parametrize("module", ["sklearn", "tqdm", "safetensors", "matplotlib", "scipy"])
def test_a_missing_extra_is_one_line(tmp_path, monkeypatch, capsys, module):
    x, y = blobs()
    test = {} if module == "sklearn" else {"x_test": x, "y_test": y}
    np.savez(tmp_path / "blobs.npz", x=x, y=y, **test)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    code = cli.main(["train", "blobs.npz"])
    out, err = capsys.readouterr()
    assert_one_line(subprocess.CompletedProcess([], code, out, err), tmp_path)
    assert "pip install 'onepass[train]'" in err


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_interrupted(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "onepass", "train", "digits", "--epochs", "100000"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    assert process.stdout is not None
    process.stdout.readline()  # the data are read, training begins
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = err.splitlines()
    assert re.fullmatch(r"onepass: interrupted; stopped after step \d+, batch \d+ of 23 in epoch \d+", lines[-1])
    assert all(line.startswith("epoch ") for line in lines[:-1])
    assert list(tmp_path.iterdir()) == []


def test_info(tmp_path):
    done = run("info", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    for word in (onepass.__version__, onepass.info()["isa"], "threads", "openmp"):
        assert word in done.stdout


def test_a_last_batch_of_one_row(tmp_path, monkeypatch, capsys):
    x, y = blobs(33)
    np.savez(tmp_path / "blobs.npz", x=x, y=y, x_test=x, y_test=y)
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "blobs.npz", "--epochs", "1", "--batch-size"]
    assert cli.main([*arguments, "1"]) == 2
    assert "expected at least 2 with batch norm" in capsys.readouterr().err
    assert cli.main([*arguments, "16"]) == 0
    assert json.loads((tmp_path / "runs/blobs/history.json").read_text())[0]["step"] == 2
    assert cli.main([*arguments, "1", "--no-batch-norm"]) == 0


def save_blobs(folder, **arrays):
    x, y = blobs()
    np.savez(folder / "blobs.npz", **{"x": x, "y": y, **arrays})
    return ["train", "blobs.npz", "--epochs", "2", "--hidden", "4", "--out", "out"]


def assert_written(folder):
    assert sorted(path.name for path in (folder / "out").iterdir()) == sorted(cli.FILES)
    assert sorted(path.name for path in folder.iterdir()) == ["blobs.npz", "out"]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("bytes_", [100, 20_000])
def test_a_full_disk_is_one_line_and_nothing_is_half_written(tmp_path, monkeypatch, capsys, there, bytes_):
    resource = pytest.importorskip("resource")
    arguments = save_blobs(tmp_path)
    monkeypatch.chdir(tmp_path)
    arguments[-1] = "new/out"
    if there:
        assert cli.main(arguments) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, limits[1]))
    try:
        code = cli.main(arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    err = capsys.readouterr().err.splitlines()
    assert code == 2
    assert err[-1] == "onepass: cannot write the result in new/out: File too large"
    assert all(line.startswith("epoch ") for line in err[:-1])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert (tmp_path / "new").exists() == there


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("broken", ["stdout", "stderr"])
def test_a_full_stream_does_not_lose_the_result(tmp_path, broken):
    arguments = save_blobs(tmp_path)
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, broken: full}
        done = subprocess.run([sys.executable, "-m", "onepass", *arguments], cwd=tmp_path, text=True, **streams)
    assert_written(tmp_path)
    if broken == "stdout":
        assert done.returncode == 2
        last = "onepass: cannot print the table to stdout: No space left on device; the result is in out"
        assert done.stderr.splitlines()[-1] == last
        assert len(done.stderr.splitlines()) == 3
    else:
        assert done.returncode == 0
        assert done.stdout.splitlines()[-1].startswith("wrote ")


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_closed_pipe_is_quiet_and_does_not_lose_the_result(tmp_path):
    arguments = save_blobs(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "onepass", *arguments]
    done = subprocess.run(command, cwd=tmp_path, stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.returncode == 141
    assert [line[:5] for line in done.stderr.splitlines()] == ["epoch"] * 2
    assert_written(tmp_path)


@pytest.mark.parametrize(
    ("header", "options", "label"),
    [("", [], "column 5 (last)"), ("a,b,c,d,LABEL", [], "column 5 (LABEL)"), ("", ["--label", "5"], "column 5 (last)")],
)
def test_the_first_line_says_which_column_is_the_label(tmp_path, monkeypatch, capsys, header, options, label):
    x, y = blobs()
    np.savetxt(tmp_path / "blobs.csv", np.c_[x, y], delimiter=",", header=header, comments="")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "blobs.csv", "--epochs", "1", *options]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == f"blobs.csv: 72 training and 18 test rows, 4 features, 3 classes, label: {label}"


def test_label_first_and_two_candidates(tmp_path, monkeypatch, capsys):
    x, y = blobs()
    monkeypatch.chdir(tmp_path)
    np.savetxt("blobs.csv", np.c_[y, x], delimiter=",")
    assert cli.main(["train", "blobs.csv"]) == 2
    assert "label: column 5 (last)" in capsys.readouterr().err
    assert cli.main(["train", "blobs.csv", "--label", "1", "--epochs", "1"]) == 0
    np.savetxt("two.csv", np.c_[y, x], delimiter=",", header="y,a,b,c,label", comments="")
    capsys.readouterr()
    assert cli.main(["train", "two.csv"]) == 2
    assert "column 1 (y), column 5 (label); choose one with --label" in capsys.readouterr().err
    assert cli.main(["train", "two.csv", "--label", "Y", "--epochs", "1"]) == 0


def test_help_tells_the_data_formats(capsys):
    assert cli.main(["train", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "label, labels, y, target or class (any case), else the last",
        "x_train and y_train",
        "--label COLUMN",
    ):
        assert part in text


def test_outliers_are_refused(tmp_path, monkeypatch, capsys):
    x, y = blobs()
    monkeypatch.chdir(tmp_path)
    for bad, says in ((1e300, "holds 1e+300 in row 7"), (3e38, "row 7 that scaling it overflows")):
        x_test = x.copy()
        x_test[7] = bad
        arguments = save_blobs(tmp_path, x=x * 1e-10, x_test=x_test, y_test=y)
        code = cli.main(arguments)
        out, err = capsys.readouterr()
        assert_one_line(subprocess.CompletedProcess([], code, out, err), tmp_path)
        assert says in err


def test_a_test_loss_that_is_not_finite_is_told(tmp_path, monkeypatch, capsys):
    from onepass.trainer import Trainer

    monkeypatch.setattr(Trainer, "evaluate", lambda *_: {"loss": float("nan"), "accuracy": 0.5})
    arguments = save_blobs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 1
    assert "onepass: the test loss is not finite in 2 epochs, first 1;" in capsys.readouterr().err
    text = (tmp_path / "out" / "history.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)[0]["validation_loss"] is None


def test_environment_that_cannot_be_used(tmp_path):
    arguments = save_blobs(tmp_path)
    done = run(*arguments, cwd=tmp_path, env={**os.environ, "MPLBACKEND": "nonsense"})
    assert_one_line(done, tmp_path)
    assert "cannot be imported with MPLBACKEND=nonsense: " in done.stderr
    arguments[-1] = "z\u00e9"
    done = run(*arguments, cwd=tmp_path, env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("in z\\xe9\n")
    assert (tmp_path / "z\u00e9" / "curves.png").exists()


def test_interrupted_while_importing(tmp_path, monkeypatch, capsys):
    import builtins

    imports = builtins.__import__

    def interrupted(name, *rest):
        if name == "onepass.trainer":
            raise KeyboardInterrupt
        return imports(name, *rest)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtins, "__import__", interrupted)
    assert cli.main(["train", "digits"]) == 130
    assert capsys.readouterr() == ("", "onepass: interrupted\n")


def test_the_command_imports_what_takes_time_inside_main():
    program = "import sys, onepass.cli; print([m for m in ('onepass.trainer', 'onepass.data') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("arguments", [["train", ""], ["train", "blobs.npz", "--out", ""]])
def test_an_empty_name_is_one_line(tmp_path, arguments):
    save_blobs(tmp_path)
    done = run(*arguments, cwd=tmp_path)
    assert_one_line(done, tmp_path)
    assert "is empty" in done.stderr


@pytest.mark.parametrize("name", cli.FILES)
def test_a_folder_in_the_place_of_a_file_is_found_before_the_training(tmp_path, monkeypatch, capsys, name):
    arguments = save_blobs(tmp_path)
    (tmp_path / "out" / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    code = cli.main(arguments)
    out, err = capsys.readouterr()
    assert_one_line(subprocess.CompletedProcess([], code, out, err), tmp_path)
    assert f"argument --out: out/{name} is a folder" in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_lines_and_table_say_test(tmp_path, monkeypatch, capsys):
    arguments = save_blobs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments) == 0
    out, err = capsys.readouterr()
    assert all("test accuracy" in line and "validation" not in line for line in err.splitlines())
    assert "test accuracy" in out
    assert_written(tmp_path)


# ---- what is done with the result


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with blobs.npz, and a run on it in out."""
    folder = tmp_path_factory.mktemp("trained")
    x, y = blobs(120)
    np.savez(folder / "blobs.npz", x=x, y=y)
    done = run("train", "blobs.npz", "--epochs", "8", "--batch-size", "16", "--dropout", "0.1", "--activation", "gelu",
               "--out", "out", "--lr", "0.02", cwd=folder)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_evaluate_repeats_the_result(trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(trained)
    assert cli.main(["evaluate", "out", "--confusion", str(tmp_path / "matrix.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    accuracy = checkpoint.load(trained / "out").meta["test_accuracy"]
    assert lines[0].startswith("blobs.npz: test rows: 24, loss ")
    assert lines[0].endswith(f"accuracy {accuracy:.2%}")
    assert [word in lines[1] for word in ("precision", "recall", "f1-score", "support")] == [True] * 4
    assert (tmp_path / "matrix.png").read_bytes()[:4] == b"\x89PNG"


def test_evaluate_on_other_data(trained, capsys, monkeypatch, tmp_path):
    """All rows of a file without a test set; not every class has to occur."""
    x, y = blobs(30, seed=5)
    np.savez(tmp_path / "other.npz", x=x[y < 2], y=y[y < 2])
    monkeypatch.chdir(trained)
    assert cli.main(["evaluate", "out", str(tmp_path / "other.npz")]) == 0
    assert "other.npz: rows: 20, loss " in capsys.readouterr().out
    np.savez(tmp_path / "other.npz", x=x, y=y + 1)
    assert cli.main(["evaluate", "out", str(tmp_path / "other.npz")]) == 2
    assert "y holds label 3, expected 0 .. 2" in capsys.readouterr().err
    np.savez(tmp_path / "other.npz", x=x[:, :3], y=y)
    assert cli.main(["evaluate", "out", str(tmp_path / "other.npz")]) == 2
    assert "rows of 3 features, expected 4" in capsys.readouterr().err


def expected_logits(folder, x):
    from onepass.cli.results import read

    return read(str(folder)).predict(x, "x")


@pytest.mark.parametrize("kind", ["npy", "npz", "npz of one array", "csv", "csv with header and label", "csv --label"])
def test_predict(trained, capsys, monkeypatch, tmp_path, kind):
    x, y = blobs(30, seed=5)
    path, options = tmp_path / f"rows.{kind[:3]}", []
    if kind == "npy":
        np.save(path, x)
    elif kind.startswith("npz"):
        np.savez(path, **({"x": x, "z": y} if kind == "npz" else {"rows": x}))
    elif kind == "csv":
        np.savetxt(path, x, delimiter=",")
    elif kind == "csv --label":
        np.savetxt(path, np.c_[y, x], delimiter=",")
        options = ["--label", "1"]
    else:
        np.savetxt(path, np.c_[x, y], delimiter=",", header="a,b,c,d,label", comments="")
    monkeypatch.chdir(trained)
    assert cli.main(["predict", "out", str(path), *options]) == 0
    printed = [int(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == expected_logits(trained / "out", x).argmax(axis=1).tolist()
    assert np.mean(np.array(printed) == y) > 0.9


def test_predict_probabilities(trained, capsys, monkeypatch, tmp_path):
    x, _ = blobs(7, seed=5)
    np.save(tmp_path / "rows.npy", x)
    monkeypatch.chdir(trained)
    arguments = ["predict", "out", str(tmp_path / "rows.npy"), "--probabilities"]
    assert cli.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "class,p0,p1,p2"
    table = np.array([[float(cell) for cell in line.split(",")] for line in lines[1:]])
    logits = expected_logits(trained / "out", x).astype(np.float64)
    expected = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(table[:, 1:], expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)
    assert (table[:, 0] == logits.argmax(axis=1)).all()
    for name in ("table.csv", "table.npy"):
        assert cli.main([*arguments, "--out", str(tmp_path / name)]) == 0
        assert f"wrote 7 predictions to {tmp_path / name}" in capsys.readouterr().out
    assert (tmp_path / "table.csv").read_text().splitlines() == lines
    np.testing.assert_allclose(np.load(tmp_path / "table.npy"), table, rtol=1e-6)


@pytest.mark.parametrize("softmax", [False, True])
def test_export(trained, capsys, monkeypatch, tmp_path, softmax):
    onnxruntime = pytest.importorskip("onnxruntime")
    path = tmp_path / "model.onnx"
    monkeypatch.chdir(trained)
    assert cli.main(["export", "out", str(path), *(["--softmax"] if softmax else [])]) == 0
    assert "features (N, 4) to " + ("probabilities" if softmax else "logits") in capsys.readouterr().out
    x, _ = blobs(9, seed=5)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    result = session.run(None, {"x": x.astype(np.float32)})[0]
    expected = expected_logits(trained / "out", x)
    if softmax:
        from onepass import kernels

        expected = kernels.softmax(expected)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nothing"], "nothing/model.safetensors does not exist"),
        (["predict", "out", "nothing.npy"], "nothing.npy does not exist"),
        (["predict", "out", "blobs.npz", "--out", "table.txt"], "table.txt, expected FILE.csv or FILE.npy"),
        (["predict", "out", "blobs.npz", "--label", "1"], "has no columns to leave out"),
        (["export", "nothing"], "nothing/model.safetensors does not exist"),
        (["train", "blobs.npz", "--save-every", "3"], "--save-every: expected together with --resume"),
    ],
)
def test_mistakes_are_one_line(trained, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(trained)
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_checkpoint_of_another_program_is_no_result(tmp_path, capsys):
    from onepass import nn

    checkpoint.save(tmp_path, nn.Sequential(nn.Linear(2, 2)))
    assert cli.main(["evaluate", str(tmp_path)]) == 2
    assert "none that onepass train wrote" in capsys.readouterr().err


# ---- what train grew


@pytest.mark.parametrize("name", [n for n in cli.SCHEDULES if n not in ("constant", "step", "cosine")])
def test_schedules(tmp_path, monkeypatch, capsys, name):
    arguments = save_blobs(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = ["--schedule", name, "--warmup", "0.5", "--epochs", "6", "--batch-size", "16", "--lr", "0.004"]
    assert cli.main([*arguments, *options]) == 0, capsys.readouterr().err
    rates = [record["learning_rate"] for record in json.loads((tmp_path / "out" / "history.json").read_text())]
    assert all(0 <= rate <= 0.004 for rate in rates)
    assert len(set(rates)) > 1
    assert min(rates) < 0.0025


def test_early_stopping_average_and_tensorboard(tmp_path, monkeypatch, capsys):
    arguments = save_blobs(tmp_path)
    monkeypatch.chdir(tmp_path)
    options = ["--epochs", "60", "--early-stopping", "2", "--tensorboard", "--lr", "0.05", "--accumulate", "2",
               "--max-norm", "1"]  # fmt: skip
    assert cli.main([*arguments, *options]) == 0, capsys.readouterr().err
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    best = min(range(len(history)), key=lambda i: history[i]["validation_loss"])
    assert len(history) == best + 3 < 60
    assert checkpoint.load(tmp_path / "out").meta["test_accuracy"] == history[best]["validation_accuracy"]
    assert len(list((tmp_path / "out" / "tensorboard").iterdir())) == 1
    assert cli.main([*arguments, "--ema", "0.9"]) == 0
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert checkpoint.load(tmp_path / "out").meta["test_accuracy"] == history[-1]["validation_accuracy"]


def test_lr_find(tmp_path, monkeypatch, capsys):
    arguments = save_blobs(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main([*arguments, "--lr-find"]) == 0, capsys.readouterr().err
    line = capsys.readouterr().out.splitlines()[-1]
    rate = float(re.fullmatch(r"suggested learning rate (\S+); wrote lr-find\.png in out", line)[1])
    assert 1e-5 < rate < 10
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["lr-find.png"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_run_is_resumed(tmp_path):
    arguments = [*save_blobs(tmp_path), "--epochs", "40", "--resume", "--save-every", "1", "--batch-size", "8"]
    command = [sys.executable, "-m", "onepass", *arguments]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("out/checkpoints/step-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    whole = run(*arguments, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    tensors = [load_tensors(tmp_path / name / "model.safetensors") for name in ("out", "whole")]
    assert {k: v.tobytes() for k, v in tensors[0].items()} == {k: v.tobytes() for k, v in tensors[1].items()}
    other = run(*arguments, "--batch-size", "16", cwd=tmp_path)
    assert other.returncode == 2
    assert "cannot resume: out/checkpoints holds another run: batch_size was 8, now it is 16" in other.stderr
    assert other.stderr.count("\n") == 1
