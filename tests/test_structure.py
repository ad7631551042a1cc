"""The design's rules about the code itself: who may include or import whom, public names, signatures, versions."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onepass
from onepass import kernels, reference
from onepass._update_steps import describe_step

ROOT = Path(__file__).parents[1]
CSRC, PACKAGE = ROOT / "csrc", ROOT / "python" / "onepass"
ADAPTERS = {"torch", "jax", "sklearn", "onnx", "mpi"}


# ---- C++


def sources(folder):
    files = sorted(p for p in (CSRC / folder).rglob("*") if p.suffix in {".cpp", ".hpp", ".h", ".def"})
    assert files, folder
    return files


def includes(path):
    return re.findall(r'^\s*#\s*include\s+([<"][^>"]+[>"])', path.read_text(), re.MULTILINE)


def code(path):
    """The file without comments."""
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", path.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("path", sources("kernels"), ids=lambda p: p.name)
def test_kernels_are_arithmetic_only(path):
    """No threads, containers, exceptions or Python: the folder is compiled once for each instruction-set level."""
    headers = {"<bit>", "<cstddef>", "<cstdint>", "<cstring>", "<limits>", "<type_traits>", "<utility>"}
    for include in includes(path):
        assert include in headers or re.match(r'"(kernels|onepass)/', include), include
    assert not re.search(r"\b(throw|try|catch|new|delete|std::(vector|string|map|function|array))\b", code(path))
    assert not re.search(r"\b_mm\d*_|immintrin|\bf?ma\(|std::(exp|log|pow|sqrt|fma)\b", code(path))


@pytest.mark.parametrize("folder", ["api", "runtime", "include", "xla"])
def test_the_library_knows_no_python(folder):
    for path in sources(folder):
        assert [i for i in includes(path) if re.search(r"pybind11|Python\.h|numpy|bindings/|xla/ffi/", i)] == [], path


def test_bindings_see_the_c_abi_alone():
    """And XLA's handlers, which are made of the C ABI alone and need neither Python nor jaxlib."""
    for folder, allowed in (("bindings", "bindings|onepass"), ("xla", "xla|onepass")):
        for path in sources(folder):
            own = [i for i in includes(path) if i.startswith('"') and i != '"xla/handlers.hpp"']
            assert [i for i in own if not re.match(rf'"({allowed})/', i)] == [], path


def test_one_file_starts_threads():
    files = [
        p.relative_to(CSRC).as_posix() for p in CSRC.rglob("*.?pp") if re.search(r"std::j?thread\s+\w+\(", code(p))
    ]
    assert files == ["runtime/team.cpp"]
    assert [p for p in CSRC.rglob("*.?pp") if re.search(r"\bomp\b|pthread_create|std::async", code(p))] == []


def test_one_file_names_instruction_set_flags():
    files = [ROOT / "CMakeLists.txt", ROOT / "CMakePresets.json", ROOT / "pyproject.toml", *(ROOT / "cmake").glob("*")]
    naming = [p.name for p in files if re.search(r"-march|-mavx|-msse|-mprefer|/arch:", p.read_text())]
    assert naming == ["IsaLevels.cmake"]
    assert "-march=native" not in (ROOT / "cmake" / "IsaLevels.cmake").read_text()
    assert not [p for p in files if "-ffast-math" in p.read_text()]


# ---- Python


def modules():
    """name -> path of every module in the package"""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imported(path, top_level_only=False):
    """Names of all modules that a file imports; `from onepass import x` counts as onepass.x."""
    tree = ast.parse(path.read_text())
    names = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def part(name):
    """onepass.optim.adam -> optim"""
    return name.split(".")[1] if name.startswith("onepass.") else ""


def test_the_walk_finds_the_package():
    assert {"onepass", "onepass.kernels", "onepass.reference", "onepass.optim.adam"} <= MODULES.keys()
    assert "onepass.kernels" in imported(MODULES["onepass.optim.optimizer"])


def test_reference_does_not_use_the_compiled_core():
    names = imported(MODULES["onepass.reference"])
    assert "onepass._core" not in names
    assert "onepass.kernels" not in names
    for name in names & MODULES.keys() - {"onepass", "onepass.optim"}:
        assert "onepass._core" not in imported(MODULES[name]), name


@pytest.mark.parametrize("name", [n for n in MODULES if part(n) in {"optim", "nn", "data", "schedules", "losses"}])
def test_parts_do_not_know_the_trainer(name):
    assert {part(i) for i in imported(MODULES[name])} & {"trainer", "callbacks", "checkpoint", "cli"} == set()


@pytest.mark.parametrize("name", [n for n in MODULES if part(n) == "callbacks"])
def test_callbacks_know_the_trainers_protocol_only(name):
    assert {part(i) for i in imported(MODULES[name])} & {"trainer", "cli"} == set()


@pytest.mark.parametrize("name", [n for n in MODULES if part(n) == "landscape"])
def test_landscape_takes_a_function_and_knows_no_layers(name):
    assert {part(i) for i in imported(MODULES[name])} & {"nn", "optim", "losses", "trainer", "callbacks"} == set()


@pytest.mark.parametrize("name", [n for n in MODULES if part(n) not in {"cli", "lecture"}])
def test_the_lecture_is_on_top_of_everything(name):
    assert "lecture" not in {part(i) for i in imported(MODULES[name])}


@pytest.mark.parametrize("name", [n for n in MODULES if part(n) not in ADAPTERS])
def test_nothing_imports_an_adapter_or_its_framework(name):
    """But for the command that exports: a program on top of everything."""
    names = imported(MODULES[name])
    assert {part(i) for i in names} & ADAPTERS == ({"onnx"} if name == "onepass.cli.export" else set())
    assert {i.split(".")[0] for i in names} & {"torch", "jax", "onnx", "onnxruntime", "mpi4py"} == set()


@pytest.mark.parametrize(
    "name", ["onepass", "onepass.kernels", "onepass.reference", "onepass.optim", "onepass.landscape", "onepass.lecture"]
)
def test_import_is_silent_and_needs_numpy_alone(name):
    heavy = ["scipy", "matplotlib", "sklearn", "tqdm", "torch", "jax", "safetensors", "threadpoolctl", "pandas"]
    code = f"import sys, {name}; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
    assert run.stderr == ""


# ---- names, signatures, versions


KERNELS = [
    "softmax_cross_entropy", "softmax", "log_softmax", "batch_norm", "batch_norm_backward", "global_norm",
    "batch_norm_statistics", "merge_statistics", "batch_norm_apply", "batch_norm_backward_sums",
    "batch_norm_backward_apply",
    "linear", "linear_backward", "relu", "relu_backward", "mean_squared_error",
    "linear_cross_entropy",
    "conv2d", "conv2d_backward", "max_pool2d", "max_pool2d_backward", "avg_pool2d", "avg_pool2d_backward",
    "layer_norm", "layer_norm_backward", "rms_norm", "rms_norm_backward",
    "group_norm", "group_norm_backward", "instance_norm", "instance_norm_backward",
    "leaky_relu", "leaky_relu_backward", "gelu", "gelu_backward", "silu", "silu_backward",
    "sigmoid", "sigmoid_backward", "tanh", "tanh_backward", "bias_activation", "bias_activation_backward",
    "dropout", "dropout_backward",
    "binary_cross_entropy_with_logits", "huber_loss", "smooth_l1_loss", "nll_loss",
]  # fmt: skip


@pytest.mark.parametrize("name", [*KERNELS, *kernels.UPDATES])
def test_reference_has_the_kernels_signature(name):
    signature = inspect.signature(getattr(kernels, name))
    assert inspect.signature(getattr(reference, name)) == signature
    if name == "merge_statistics":  # a few numbers a channel
        return
    threads = signature.parameters["threads"]
    assert (threads.kind, threads.default) == (threads.KEYWORD_ONLY, None)


def public_functions(module):
    return {
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and re.match(rf"{module.__name__}(\.[a-z]\w*)?$", value.__module__)
        and not name.startswith("_")
    }


def test_kernels_and_reference_have_the_same_names():
    for rule in kernels.UPDATES:
        getattr(reference, rule)
    assert public_functions(kernels) == {*KERNELS, *kernels.UPDATES}
    assert public_functions(reference) - {"flush_subnormals"} == {*KERNELS, *kernels.UPDATES}


def test_design_signatures():
    def parameters(function):
        return [p.name for p in inspect.signature(function).parameters.values() if p.name != "threads"]

    assert parameters(kernels.softmax_cross_entropy) == [
        "logits", "targets", "weight", "ignore_index", "label_smoothing", "z_loss", "reduction", "grad",
        "n_classes", "log_probabilities", "dtype",
    ]  # fmt: skip
    assert parameters(kernels.batch_norm) == [
        "x", "gamma", "beta", "running_mean", "running_var", "training", "momentum", "eps", "channel_axis", "relu",
        "residual", "out", "batches", "population", "mean", "invstd", "dtype",
    ]  # fmt: skip
    assert parameters(kernels.batch_norm_backward)[:5] == ["dy", "x", "gamma", "saved", "out"]
    defaults = {k: p.default for k, p in inspect.signature(kernels.batch_norm).parameters.items()}
    assert (defaults["momentum"], defaults["eps"], defaults["channel_axis"]) == (0.1, 1e-5, 1)
    adam = inspect.signature(kernels.adam).parameters
    assert list(adam)[:5] == ["param", "grad", "exp_avg", "exp_avg_sq", "step"]
    assert adam["step"].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("onepass", ["info", "set_threads", "get_threads", "__version__"]),
        ("onepass", ["get_include", "get_cmake_dir", "get_library"]),
        ("onepass.optim", ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam"]),
        ("onepass.optim", ["Rprop", "ASGD", "Lion", "Signum", "AdaBound", "LAMB", "LARS", "SWATS"]),
        ("onepass.schedules", ["constant", "step_decay", "cosine", "linear_warmup", "join"]),
        (
            "onepass.nn",
            ["Linear", "BatchNorm", "ReLU", "Sequential", "LeakyReLU", "GELU", "SiLU", "Sigmoid", "Tanh", "Dropout"],
        ),
        (
            "onepass.nn",
            ["Conv2d", "MaxPool2d", "AvgPool2d", "LayerNorm", "RMSNorm", "Flatten", "Embedding", "Residual"],
        ),
        ("onepass.losses", ["CrossEntropy", "MeanSquaredError", "BinaryCrossEntropyWithLogits", "Huber", "SmoothL1"]),
        ("onepass.trainer", ["Trainer"]),
        (
            "onepass.landscape",
            ["gradient_check", "hessian_vector_product", "hessian", "hessian_operator", "gauss_newton_operator"],
        ),
        ("onepass.landscape", ["eigenpairs", "trace", "spectral_density", "taylor", "from_model", "from_torch"]),
        ("onepass.landscape", ["critical_point", "check_result", "escape", "line", "plane", "random_direction", "pca"]),
        ("onepass.landscape", ["directions_between", "CriticalPoint", "Escape"]),
        ("onepass.callbacks", ["Trajectory"]),
        ("onepass.torch", ["SGD", "Adagrad", "RMSprop", "Adadelta", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"]),
        ("onepass.torch", ["Rprop", "ASGD", "Lion", "Signum", "AdaBound", "LAMB", "LARS", "SWATS"]),
    ],
)
def test_design_names(module, names):
    if module == "onepass.torch":
        pytest.importorskip("torch")
    assert [name for name in names if not hasattr(importlib.import_module(module), name)] == []


@pytest.mark.parametrize("rule", kernels.UPDATES)
def test_registry(rule):
    """28 bytes a parameter for Adam in float32: states and parameter are read and written, the gradient read."""
    update = kernels.UPDATES[rule]
    assert update.name == rule
    more = {"lamb": 12, "lars": 8}  # their second pass
    assert update.bytes_per_parameter == 4 * (3 + 2 * len(update.states)) + more.get(rule, 0)
    assert update == describe_step(rule)
    assert list(inspect.signature(getattr(kernels, rule)).parameters)[2 : 2 + len(update.states)] == list(update.states)
    assert "lr" in update.hyperparameters


def test_versions_agree():
    header = (CSRC / "include" / "onepass" / "onepass.h").read_text()
    numbers = re.findall(r"#define ONEPASS_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)", header)
    (text,) = re.findall(r'#define ONEPASS_VERSION "([^"]+)"', header)
    assert ".".join(numbers) == text == onepass.__version__ == onepass.info()["version"]
    assert importlib.metadata.version("onepass") == text
    project = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^dynamic = \["version"\]', project, re.MULTILINE)
    assert "csrc/include/onepass/onepass.h" in project


def test_native_files_are_where_the_package_says():
    assert (Path(onepass.get_include()) / "onepass" / "onepass.h").is_file()
    assert (Path(onepass.get_cmake_dir()) / "onepassConfig.cmake").is_file()


def test_files_are_short():
    """One topic a file: whatever outgrows this has two."""
    files = [p for folder in (CSRC, PACKAGE, ROOT / "cmake", ROOT / "bench") for p in folder.rglob("*")]
    files = [p for p in files if p.suffix in {".py", ".pyi", ".cpp", ".hpp", ".h", ".cmake"}]
    assert len(files) > 50
    assert {str(p.relative_to(ROOT)): n for p in files if (n := len(p.read_text().splitlines())) > 560} == {}


def test_no_path_of_a_machine_is_written_down():
    folders = (CSRC, PACKAGE, ROOT / "cmake", ROOT / "bench", ROOT / "docs", ROOT / "examples", ROOT / "tests")
    files = [
        p for folder in folders for p in folder.rglob("*") if p.suffix in {".py", ".cpp", ".hpp", ".h", ".md", ".cmake"}
    ]
    pattern = re.compile(r"(?<![\w.])/(home|root|work|Users)/\w")
    assert [p.name for p in files if p != Path(__file__) and pattern.search(p.read_text())] == []
