"""The optimizers of onepass.torch inside torch's own machinery, beside torch.optim's in the same place."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import warnings

import numpy as np
import pytest
from measure import assert_same_bits, ulps

torch = pytest.importorskip("torch")
ours = pytest.importorskip("onepass.torch")
lr_scheduler = torch.optim.lr_scheduler

OLDER = "decoupled_weight_decay" not in inspect.signature(torch.optim.Adam).parameters  # as in torch 2.4
BOUND = 16
RULES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("Adagrad", {"lr": 0.1}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.5, "centered": True}),
    ("Adadelta", {"lr": 1.0}),
    ("Adam", {"lr": 0.01, "amsgrad": True}),
    ("AdamW", {"lr": 0.01}),
    ("Adamax", {"lr": 0.01}),
    ("NAdam", {"lr": 0.01}),
    ("RAdam", {"lr": 0.01}),
    ("Rprop", {"lr": 0.01}),
    ("ASGD", {"lr": 0.1, "t0": 3.0}),
]
OWN = [
    ("Lion", {"lr": 0.01}),
    ("Signum", {"lr": 0.01}),
    ("AdaBound", {"lr": 0.01}),
    ("LAMB", {"lr": 0.01}),
    ("LARS", {"lr": 0.1}),
    ("SWATS", {"lr": 0.01, "tolerance": 0.05}),
]
ALL = [*RULES, *OWN]


@pytest.fixture(autouse=True)
def doubles():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(8, 6, generator=generator), torch.randint(0, 3, (8,), generator=generator)


def backward(model, batch):
    loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    return loss


class Pair:
    """A network trained by ours and its twin by torch's."""

    def __init__(self, name, options, **own):
        self.models = network(), network()
        ours_too = getattr(ours, name)(self.models[0].parameters(), **options, **own)
        self.optimizers = ours_too, getattr(torch.optim, name)(self.models[1].parameters(), foreach=False, **options)

    def train(self, count, seed=1, after=lambda i: None):
        for batch in batches(count, seed):
            for i, (model, optimizer) in enumerate(zip(self.models, self.optimizers, strict=True)):
                optimizer.zero_grad()
                backward(model, batch)
                optimizer.step()
                after(i)

    def check(self, bound=64):
        """The gradients of a step follow from the parameters, so that roundings grow."""
        for p, q in zip(*(model.parameters() for model in self.models), strict=True):
            q = q.detach().numpy()
            assert ulps(p.detach().numpy(), q, np.abs(q) + 1) <= bound


def state_of(model):
    return [p.detach().numpy().copy() for p in model.parameters()]


# ---- closures, hooks


@pytest.mark.parametrize(("name", "options"), RULES, ids=str)
def test_closures(name, options):
    pair = Pair(name, options)
    for batch in batches(5):
        losses = []
        for model, optimizer in zip(pair.models, pair.optimizers, strict=True):

            def closure(model=model, optimizer=optimizer, batch=batch):
                assert torch.is_grad_enabled()
                optimizer.zero_grad()
                return backward(model, batch)

            with torch.no_grad():
                losses.append(optimizer.step(closure).item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    pair.check()


def test_step_returns_nothing_without_a_closure():
    model = network()
    optimizer = ours.Adam(model.parameters())
    assert optimizer.step() is None
    assert optimizer.state_dict()["state"] == {}


def test_hooks_run_where_torchs_run():
    seen = [], []
    pair = Pair("Adam", {"lr": 0.01})
    for log, optimizer in zip(seen, pair.optimizers, strict=True):
        optimizer.register_step_pre_hook(lambda o, args, kwargs, log=log: log.append("step pre"))
        optimizer.register_step_post_hook(lambda o, args, kwargs, log=log: log.append("step post"))
        optimizer.register_state_dict_pre_hook(lambda o, log=log: log.append("state_dict pre"))
        optimizer.register_state_dict_post_hook(lambda o, d, log=log: {**d, "extra": log.append("state_dict post")})
        optimizer.register_load_state_dict_pre_hook(lambda o, d, log=log: log.append("load pre"))
        optimizer.register_load_state_dict_post_hook(lambda o, log=log: log.append(f"load post {len(o.state)}"))
    pair.train(2)
    for optimizer in pair.optimizers:
        saved = optimizer.state_dict()
        assert "extra" in saved
        optimizer.load_state_dict(saved)
    pair.train(1)
    assert seen[0] == seen[1]
    assert seen[0].count("load post 4") == 1
    pair.check()


def test_a_load_hook_that_changes_the_dictionary():
    pair = Pair("Adam", {"lr": 0.01})
    pair.train(2)

    def halve(optimizer, given):
        given = copy.deepcopy(given)
        for entry in given["state"].values():
            entry["exp_avg"] *= 0.5
        given["param_groups"][0]["lr"] = 0.02
        return given

    def watch(optimizer):
        optimizer.seen = [entry["exp_avg"].clone() for entry in optimizer.state.values()]

    for optimizer in pair.optimizers:
        optimizer.register_load_state_dict_pre_hook(halve)
        optimizer.register_load_state_dict_post_hook(watch, prepend=True)
        optimizer.load_state_dict(optimizer.state_dict())
    for own, other in zip(*(optimizer.seen for optimizer in pair.optimizers), strict=True):
        torch.testing.assert_close(own, other)
    pair.train(2)
    pair.check()


def test_the_global_step_hooks():
    from torch.optim.optimizer import register_optimizer_step_post_hook

    steps = []
    handle = register_optimizer_step_post_hook(lambda o, args, kwargs: steps.append(type(o)))
    try:
        pair = Pair("AdamW", {"lr": 0.01})
        pair.train(2)
    finally:
        handle.remove()
    assert steps == [ours.AdamW, torch.optim.AdamW] * 2


# ---- schedulers

SCHEDULERS = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.95),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 5], 0.3),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.3, 4),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 5),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 8, 1e-4),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 1e-3, 0.1, 3, cycle_momentum=_cycles(o)),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12, cycle_momentum=_cycles(o)),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.8)], [4]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.8)]
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, factor=0.5),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 1e-3, anneal_epochs=5),
}


def _cycles(optimizer):
    """NAdam's product of momenta is another one where betas change; its docstring says so."""
    momentum = optimizer.defaults.get("momentum", 0) > 0 or "betas" in optimizer.defaults
    return momentum and type(optimizer).__name__ != "NAdam"


def test_no_scheduler_is_forgotten():
    names = {name for name in lr_scheduler.__all__ if name not in ("LRScheduler",)}
    assert names <= SCHEDULERS.keys()


# ASGD's rate is the lr of the step before, as its docstring says.
@pytest.mark.parametrize(("name", "options"), [rule for rule in RULES if rule[0] != "ASGD"], ids=str)
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("tensor", [False, True], ids=["float lr", "tensor lr"])
def test_schedulers(scheduler, name, options, tensor):
    def chosen():
        return {**options, "lr": torch.tensor(options["lr"])} if tensor else options

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an epoch that is passed to step()
        pair = Pair(name, options)
        pair.optimizers = (
            getattr(ours, name)(pair.models[0].parameters(), **chosen()),
            getattr(torch.optim, name)(pair.models[1].parameters(), foreach=False, **chosen()),
        )
        schedules = [SCHEDULERS[scheduler](optimizer) for optimizer in pair.optimizers]
        plateau = [1.0] if scheduler == "ReduceLROnPlateau" else []
        pair.train(10, after=lambda i: schedules[i].step(*plateau))
    rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in pair.optimizers]
    assert rates[0] == rates[1]
    for key in ("momentum", "betas"):
        assert pair.optimizers[0].param_groups[0].get(key) == pair.optimizers[1].param_groups[0].get(key)
    pair.check()


def test_a_tensor_lr_that_is_filled_in_place():
    pair = Pair("Adam", {"lr": 0.01})
    rates = [torch.tensor(0.01), torch.tensor(0.01)]
    for optimizer, rate in zip(pair.optimizers, rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
    for step in range(5):
        for rate in rates:
            rate.fill_(0.01 * (step + 1))
        pair.train(1, seed=step)
    pair.check()


def test_betas_may_be_tensors_or_a_list_that_changes_in_place():
    pair = Pair("Adam", {"lr": 0.01, "betas": (torch.tensor(0.8), torch.tensor(0.9))})
    pair.train(3)
    pair.check()
    pair.optimizers[0].param_groups[0]["betas"] = betas = [0.8, 0.9]
    for beta in (0.5, 0.7):
        betas[0] = beta
        pair.optimizers[1].param_groups[0]["betas"] = (beta, 0.9)
        pair.train(2)
    pair.check()


# ---- state dictionaries


@pytest.mark.parametrize(("name", "options"), RULES, ids=str)
@pytest.mark.parametrize("through", ["memory", "file"])
def test_dictionaries_of_either_load_in_the_other(name, options, through):
    pair = Pair(name, options)
    pair.train(4)
    saved = [optimizer.state_dict() for optimizer in pair.optimizers]
    if through == "file":
        for i in range(2):
            file = io.BytesIO()
            torch.save(saved[i], file)
            file.seek(0)
            saved[i] = torch.load(file, weights_only=True)
    else:
        saved = copy.deepcopy(saved)
    crossed = Pair(name, {**options, "lr": 7.0})
    for model, source in zip(crossed.models, pair.models, strict=True):
        model.load_state_dict(source.state_dict())
    crossed.optimizers[0].load_state_dict(saved[1])
    crossed.optimizers[1].load_state_dict(saved[0])
    assert crossed.optimizers[0].param_groups[0]["lr"] == options["lr"]
    crossed.train(4, seed=2)
    pair.train(4, seed=2)
    pair.check()
    crossed.check()
    for p, q in zip(pair.models[0].parameters(), crossed.models[0].parameters(), strict=True):
        assert ulps(p.detach().numpy(), q.detach().numpy(), np.abs(p.detach().numpy()) + 1) <= 64


@pytest.mark.parametrize(("name", "options"), ALL, ids=str)
@pytest.mark.parametrize("how", ["state_dict", "pickle", "deepcopy"])
def test_a_run_goes_on_to_the_bit(name, options, how):
    models = [network(), network()]
    first = getattr(ours, name)(models[0].parameters(), **options, max_norm=0.7)
    data = list(batches(8))
    for batch in data[:4]:
        first.zero_grad()
        backward(models[0], batch)
        first.step()
    if how == "state_dict":
        models[1].load_state_dict(models[0].state_dict())
        second = getattr(ours, name)(models[1].parameters(), **{**options, "lr": 5.0}, max_norm=0.7)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
    elif how == "pickle":
        models[1], second = pickle.loads(pickle.dumps((models[0], first)))
    else:
        models[1], second = copy.deepcopy((models[0], first))
    assert second.max_norm == 0.7
    assert {id(p) for group in second.param_groups for p in group["params"]} == set(map(id, models[1].parameters()))
    for batch in data[4:]:
        for model, optimizer in zip(models, (first, second), strict=True):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
    for a, b in zip(*map(state_of, models), strict=True):
        assert_same_bits(a, b)


def test_a_copy_keeps_its_storage():
    model = network().bfloat16()
    optimizer = ours.AdamW(model.parameters(), state_dtype="float8", master_weights="split", seed=5)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    twin, other = copy.deepcopy((model, optimizer))
    for m, o in ((model, optimizer), (twin, other)):
        for p in m.parameters():
            p.grad = torch.full_like(p, 0.3)
        o.step()
        assert o.state[m[0].weight]["exp_avg"].dtype == torch.uint8
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "float8"])
@pytest.mark.parametrize("params", [torch.float32, torch.bfloat16], ids=str)
def test_loading_keeps_the_types_of_states(params, state_dtype):
    """torch casts what it loads to the parameter's type."""
    model = network().to(params)
    optimizer = ours.AdamW(model.parameters(), lr=0.01, state_dtype=state_dtype)
    source = torch.optim.AdamW(model.parameters(), lr=0.01)
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    source.step()
    saved = source.state_dict()
    optimizer.load_state_dict(saved)
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float8": torch.uint8}
    for i, p in enumerate(model.parameters()):
        entry = optimizer.state[p]
        for name in ("exp_avg", "exp_avg_sq"):
            assert entry[name].dtype == kinds[state_dtype]
            if state_dtype != "float8":
                assert torch.equal(entry[name], saved["state"][i][name].to(entry[name].dtype))
    optimizer.step()
    again = ours.AdamW(model.parameters(), lr=0.01, state_dtype=state_dtype)
    again.load_state_dict(optimizer.state_dict())
    for p in model.parameters():
        for name, value in optimizer.state[p].items():
            assert again.state[p][name].dtype == value.dtype
            assert torch.equal(again.state[p][name], value)
            assert again.state[p][name].data_ptr() != value.data_ptr()


def saved_by(name, options=None):
    model = network()
    optimizer = getattr(torch.optim, name)(model.parameters(), **(options or {}))
    backward(model, next(batches(1)))
    optimizer.step()
    return copy.deepcopy(optimizer.state_dict())


def changed(key, value):
    def change(saved):
        saved["state"][0][key] = value

    return change


@pytest.mark.parametrize(
    ("name", "saved", "change", "match"),
    [
        ("Adam", lambda: saved_by("SGD", {"momentum": 0.9}), None, "no 'amsgrad'; is it of another optimizer"),
        ("SGD", lambda: saved_by("Adam"), None, "no 'dampening'"),
        ("Adam", lambda: saved_by("Adamax"), None, "amsgrad"),
        ("Adamax", lambda: saved_by("Adam"), None, "parameter 0 has exp_avg_sq"),
        ("Adam", lambda: saved_by("Adam"), changed("exp_avg", None), "parameter 0 has no exp_avg"),
        ("Adam", lambda: saved_by("Adam"), changed("step", torch.tensor(1.5)), "step of parameter 0"),
        ("Adam", lambda: saved_by("Adam"), changed("exp_avg", torch.ones(5)), r"shape \(5,\), expected \(5, 6\)"),
        ("Adam", lambda: saved_by("Adam"), changed("exp_avg", torch.ones(5, 6, dtype=torch.int32)), "int32"),
        ("Adam", lambda: saved_by("Adam"), lambda s: s["state"].update({9: {}}), "parameter 9"),
        ("Adam", lambda: saved_by("Adam"), lambda s: s["param_groups"][0].update(lr=-1.0), "lr"),
        ("Adam", lambda: saved_by("Adam"), lambda s: s["param_groups"].append({"params": []}), "groups"),
        ("Adam", lambda: saved_by("Adam"), lambda s: s["param_groups"][0]["params"].pop(), "group"),
        ("Adam", lambda: saved_by("Adam"), lambda s: s.pop("state"), "no 'state'"),
        ("NAdam", lambda: saved_by("NAdam"), changed("mu_product", torch.tensor(0.5)), "mu_product"),
        ("Adam", lambda: saved_by("Adam"), changed("exp_avg", torch.zeros(129, dtype=torch.uint8)), "8-bit blocks"),
        ("Adam", lambda: {"update": "adam", "param_groups": [], "state": {}}, None, "onepass.optim"),
    ],
)  # fmt: skip
def test_dictionaries_that_do_not_fit_change_nothing(name, saved, change, match):
    model = network()
    optimizer = getattr(ours, name)(model.parameters())
    backward(model, next(batches(1)))
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    given = saved()
    if change is not None:
        change(given)
    with pytest.raises(ValueError, match=match):
        optimizer.load_state_dict(given)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for key, entry in before["state"].items():
        assert all(torch.equal(after["state"][key][field], value) for field, value in entry.items())
    optimizer.step()


def in_entry(key, value):
    return lambda saved: saved["state"][2].update({key: value})


def in_group(key, value):
    return lambda saved: saved["param_groups"][0].update({key: value})


NONSENSE = [
    *[(in_entry("exp_avg", value), TypeError, f"exp_avg of parameter 2: expected a tensor, got {type(value).__name__}")
      for value in ("x", [1.0, 2.0, 3.0], {}, 1.0, object())],
    (in_entry("exp_avg", np.array(["x"])), TypeError, "exp_avg of parameter 2: expected a tensor, got ndarray"),
    (in_entry("exp_avg", np.ones(4)), ValueError, r"exp_avg of parameter 2 has shape \(4,\), expected \(3, 5\)"),
    (in_entry("exp_avg", torch.ones(3, 5).to_sparse()), ValueError, r"exp_avg of parameter 2 is torch.sparse_coo; .*"),
    (in_entry("exp_avg", torch.ones(3, 5, device="meta")), ValueError, "exp_avg of parameter 2 is on the device meta"),
    (in_entry("exp_avg", torch.ones(3, 5) + 1j), ValueError, "exp_avg of parameter 2 is torch.complex"),
    (in_entry("exp_avg", torch.ones(3, 5, dtype=torch.bool)), ValueError, "exp_avg of parameter 2 is torch.bool"),
    (lambda s: s["state"][2].pop("exp_avg_sq"), ValueError, "parameter 2 has no exp_avg_sq, which the update adam "),
    (lambda s: s["state"][2].pop("step"), ValueError, "parameter 2 has no step, .*of another optimizer than Adam"),
    (in_entry("momentum_buffer", torch.ones(3, 5)), ValueError, "parameter 2 has momentum_buffer, .*than Adam"),
    (in_entry(7, torch.ones(3, 5)), ValueError, "parameter 2 has 7, which the update adam does not keep"),
    *[(in_entry("step", value), TypeError, "step of parameter 2: expected a number or a tensor of one, got ")
      for value in ("3", [3], {}, object(), 1j, True, torch.tensor(True), torch.tensor(1j))],
    *[(in_entry("step", value), ValueError, "step of parameter 2: expected an integer of 0 or more")
      for value in (-1, 1.5, float("nan"), float("inf"), 1e300, 2**64, 10**400, torch.tensor(0.5))],
    (in_entry("exp_avg_sq", torch.full((3, 5), -1e-3)), ValueError, "exp_avg_sq of parameter 2 has elements below 0, "),
    *[(in_entry("axes", value), ValueError, "axes of parameter 2: expected a tensor with its numbers in memory, got")
      for value in (torch.ones(2, device="meta"), torch.ones(2, dtype=torch.int64).to_sparse())],
    (in_entry("step", torch.ones(2)), ValueError, r"step of parameter 2: expected a number, got a tensor \(2,\)"),
    (in_entry("step", torch.ones((), device="meta")), ValueError, "step of parameter 2 is on the device meta"),
    *[(lambda s, value=value: s["state"].update({2: value}), TypeError,
       f"state of parameter 2: expected a dictionary, got {type(value).__name__}")
      for value in (None, [1], "x", torch.ones(3, 5))],
    *[(lambda s, value=value: s.update(state=value), TypeError, "'state': expected a dictionary, got")
      for value in (None, [], "x")],
    *[(lambda s, value=value: s.update(param_groups=value), TypeError, "'param_groups': expected a list of ")
      for value in (None, {}, "x")],
    (lambda s: s.update(param_groups=["x"]), TypeError, "group 0: expected a dictionary with 'params', got str"),
    (lambda s: s["param_groups"][0].pop("params"), TypeError, "group 0: expected a dictionary with 'params'"),
    *[(in_group("params", value), TypeError, "'params' of group 0: expected a list of numbers or names, got")
      for value in (None, 3, "0123", [[0], [1], [2], [3]])],
    (in_group("params", [0, 1, 2, 2]), ValueError, "has parameter 2 twice in its groups"),
    (in_group("params", [0, 1]), ValueError, r"has groups of \[2\] parameters, this optimizer of \[4\]"),
    (in_group("lr", "0.1"), TypeError, "lr: expected a number"),
    (in_group("maximize", 2), ValueError, "maximize: expected True or False"),
    (in_group("betas", (0.9,)), ValueError, "betas: expected two numbers"),
    (in_entry("axes", "q"), TypeError, "axes of parameter 2: expected .* integers, got 'q'"),
    (in_entry("master", "x"), TypeError, "master of parameter 2: expected a tensor, got str"),
    (in_entry("master", torch.ones(3, 5)), ValueError, "parameter 2 has master, which belongs to master_weights"),
    *[(value, TypeError, rf"expected a dictionary, as state_dict\(\) gives it, got {type(value).__name__}")
      for value in (None, [], "x")],
]  # fmt: skip


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "float8"])
@pytest.mark.parametrize(("change", "error", "match"), NONSENSE)
def test_dictionaries_that_are_nonsense_change_nothing(change, error, match, state_dtype):
    models = [network().float() for _ in range(3)]
    optimizers = [ours.Adam(model.parameters(), lr=0.01, state_dtype=state_dtype) for model in models]
    for model, optimizer in zip(models, optimizers, strict=True):
        for _ in range(2):
            for p in model.parameters():
                p.grad = torch.full_like(p, 0.5)
            optimizer.step()
    given = change
    if callable(change):
        given = copy.deepcopy(optimizers[0].state_dict())
        change(given)
    with pytest.raises(error, match=f"^state_dict: {match}"):
        optimizers[1].load_state_dict(given)
    for model, optimizer in zip(models[1:], optimizers[1:], strict=True):
        for p in model.parameters():
            p.grad = torch.full_like(p, -0.25)
        optimizer.step()
    own, untouched = (optimizer.state_dict() for optimizer in optimizers[1:])
    assert own["param_groups"] == untouched["param_groups"]
    for key, entry in untouched["state"].items():
        assert all(torch.equal(own["state"][key][name], value) for name, value in entry.items())
    for p, q in zip(models[1].parameters(), models[2].parameters(), strict=True):
        assert torch.equal(p, q)


def test_states_in_torchs_numbers_of_8_bits_are_taken():
    model = network().float()
    optimizer = ours.Adam(model.parameters())
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    saved["state"][2]["exp_avg_sq"] = torch.full((3, 5), 0.25).to(torch.float8_e4m3fn)
    optimizer.load_state_dict(saved)
    loaded = optimizer.state_dict()["state"][2]["exp_avg_sq"]
    assert torch.equal(loaded, torch.full((3, 5), 0.25, dtype=torch.float32))


def test_blocks_without_their_order_are_refused():
    model = network().float()
    optimizer = ours.Adam(model.parameters(), state_dtype="float8")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    del saved["state"][2]["axes"]
    with pytest.raises(ValueError, match="parameter 2 has 8-bit blocks and no axes"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize(("master", "name"), [("float32", "master"), ("split", "lower")])
def test_master_weights_of_parameters_that_have_none(master, name):
    """They would be stepped in place of the parameter."""
    halves, model = network().bfloat16(), network().float()
    optimizers = [ours.SGD(m.parameters(), lr=0.1, master_weights=master) for m in (halves, model)]
    for p in halves.parameters():
        p.grad = torch.ones_like(p)
    optimizers[0].step()
    with pytest.raises(ValueError, match=f"parameter 0 has {name}, which torch.float32 parameters have not"):
        optimizers[1].load_state_dict(optimizers[0].state_dict())
    assert not optimizers[1].state


def test_master_weights_of_another_kind_are_refused():
    model = network().bfloat16()
    optimizer = ours.AdamW(model.parameters(), master_weights="float32")
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    for master, named in ((None, "None"), ("split", "'split'")):
        other = ours.AdamW(model.parameters(), master_weights=master)
        with pytest.raises(ValueError, match=f"master_weights='float32'; this optimizer has master_weights={named}"):
            other.load_state_dict(optimizer.state_dict())


def test_an_older_torchs_dictionary():
    saved = saved_by("AdamW")
    for name in ("maximize", "foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"):
        saved["param_groups"][0].pop(name, None)
    for entry in saved["state"].values():
        entry["step"] = int(entry["step"])
    model = network()
    optimizer = ours.AdamW(model.parameters())
    optimizer.load_state_dict(saved)
    backward(model, next(batches(1)))
    optimizer.step()
    assert optimizer.param_groups[0]["decoupled_weight_decay"] is True
    assert optimizer.state[model[0].weight]["step"] == 2


def test_flags_of_another_machine_are_not_taken_over():
    saved = saved_by("Adam")
    saved["param_groups"][0].update(capturable=True, fused=True, foreach=True)
    model = network()
    optimizer = ours.Adam(model.parameters())
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["capturable"] is False
    assert optimizer.param_groups[0]["foreach"] is None


@pytest.mark.skipif(OLDER, reason="this torch has no named parameters")
def test_named_parameters():
    pair = Pair("Adam", {"lr": 0.01})
    pair.optimizers = (
        ours.Adam(list(pair.models[0].named_parameters()), lr=0.01),
        torch.optim.Adam(list(pair.models[1].named_parameters()), lr=0.01, foreach=False),
    )
    pair.train(3)
    pair.check()
    saved = [optimizer.state_dict() for optimizer in pair.optimizers]
    assert saved[0]["param_groups"][0]["param_names"] == saved[1]["param_groups"][0]["param_names"]
    pair.optimizers[0].load_state_dict(saved[1])
    pair.train(2)
    pair.check()


# ---- autograd


@pytest.mark.parametrize("make", [torch.optim, ours], ids=["torch", "onepass"])
@pytest.mark.parametrize(("name", "options"), [("SGD", {"lr": 0.1}), ("AdamW", {"lr": 0.1})])
def test_a_saved_tensor_that_a_step_has_changed_is_noticed(name, options, make):
    model = network()
    optimizer = getattr(make, name)(model.parameters(), **options)
    batch = next(batches(1))
    loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_versions_count_the_parameters_that_moved():
    a, b = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = ours.Adam([a, b])
    a.grad = torch.ones(3)
    before = a._version, b._version, a.grad._version
    optimizer.step()
    assert (a._version > before[0], b._version, a.grad._version) == (True, *before[1:])
    view = torch.ones(4)[::2].requires_grad_()
    view.grad = torch.ones(2)
    before = view._version
    ours.SGD([view]).step()
    assert view._version > before


def test_gradients_with_a_graph():
    model = network()
    optimizer = ours.SGD(model.parameters(), lr=0.1)
    batch = next(batches(1))
    loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a reference cycle
        loss.backward(create_graph=True)
    assert model[0].weight.grad.requires_grad
    before = model[0].weight.detach().clone()
    optimizer.step()
    expected = before - 0.1 * model[0].weight.grad.detach()
    torch.testing.assert_close(model[0].weight.detach(), expected)
    optimizer.zero_grad()


# ---- mixed precision


@pytest.mark.parametrize(("name", "options"), [("SGD", {"lr": 0.1, "momentum": 0.9}), ("AdamW", {"lr": 0.01})])
def test_grad_scaler(name, options):
    """Gradients that are not finite skip the step; the scale follows."""
    pair = Pair(name, options)
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2) for _ in range(2)]
    for step, batch in enumerate(batches(8)):
        for i, (model, optimizer) in enumerate(zip(pair.models, pair.optimizers, strict=True)):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
            scalers[i].scale(loss).backward()
            if step == 3:
                model[0].bias.grad[1] = float("inf")
            before = state_of(model)
            if step % 2:
                scalers[i].unscale_(optimizer)
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scalers[i].step(optimizer)
            scalers[i].update()
            moved = any((a != b).any() for a, b in zip(before, state_of(model), strict=True))
            assert moved == (step != 3)
        assert scalers[0].get_scale() == scalers[1].get_scale()
    pair.check()
    if name == "AdamW":
        assert pair.optimizers[0].state[pair.models[0][0].weight]["step"] == 7


def test_autocast():
    pair = Pair("AdamW", {"lr": 0.01})
    for model in pair.models:
        model.float()
    for batch in batches(5):
        for model, optimizer in zip(pair.models, pair.optimizers, strict=True):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(batch[0].float()), batch[1])
            loss.backward()
            optimizer.step()
    for p, q in zip(*(model.parameters() for model in pair.models), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-2, atol=1e-2)


# ---- states that are made without a step


@pytest.mark.parametrize(("name", "options"), ALL, ids=str)
@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_step_with_zero_gradients_and_a_rate_of_zero_moves_nothing(name, options, decay):
    """As torch.distributed.checkpoint makes states."""
    if name != "Rprop":
        options = {**options, "weight_decay": decay}
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model = network().to(dtype)
        storage = {"master_weights": "split"} if dtype == torch.bfloat16 else {}
        optimizer = getattr(ours, name)(model.parameters(), **options, **storage)
        before = [p.detach().clone() for p in model.parameters()]
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.param_groups[0]["lr"] = 0.0
        optimizer.step()
        for p, old in zip(model.parameters(), before, strict=True):
            assert torch.equal(p, old)


@pytest.mark.parametrize(("name", "options"), RULES, ids=str)
def test_helpers_of_distributed_checkpoints(name, options):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    if OLDER and (name, options) == RULES[0]:
        pytest.skip("this torch's helpers want states, and SGD without momentum has none")
    pair = Pair(name, options)
    fresh = [get_optimizer_state_dict(m, o) for m, o in zip(pair.models, pair.optimizers, strict=True)]
    for key, entry in fresh[1]["state"].items():
        assert fresh[0]["state"][key].keys() == entry.keys()
        for field, value in entry.items():
            torch.testing.assert_close(fresh[0]["state"][key][field], value)
    for p, q in zip(network().parameters(), pair.models[0].parameters(), strict=True):
        assert torch.equal(p, q)
    pair = Pair(name, options)
    pair.train(3)
    saved = [copy.deepcopy(get_optimizer_state_dict(m, o)) for m, o in zip(pair.models, pair.optimizers, strict=True)]
    crossed = Pair(name, {**options, "lr": 3.0})
    for model, source in zip(crossed.models, pair.models, strict=True):
        model.load_state_dict(source.state_dict())
    set_optimizer_state_dict(crossed.models[0], crossed.optimizers[0], saved[1])
    set_optimizer_state_dict(crossed.models[1], crossed.optimizers[1], saved[0])
    crossed.train(3, seed=3)
    crossed.check()


# ---- other users of an optimizer


def test_weights_averaged_by_torch():
    pair = Pair("SGD", {"lr": 0.1, "momentum": 0.9})
    averaged = [torch.optim.swa_utils.AveragedModel(model) for model in pair.models]
    pair.train(4, after=lambda i: averaged[i].update_parameters(pair.models[i]))
    for p, q in zip(*(model.parameters() for model in averaged), strict=True):
        torch.testing.assert_close(p, q)


def test_steps_inside_backward():
    """An optimizer for each parameter, from a hook of its accumulated gradient."""
    models = network(), network()
    for model, make in zip(models, (ours, torch.optim), strict=True):
        for p in model.parameters():
            own = make.Adam([p], lr=0.01)

            def hook(p, own=own):
                own.step()
                own.zero_grad()

            p.register_post_accumulate_grad_hook(hook)
    for batch in batches(4):
        for model in models:
            backward(model, batch)
    for p, q in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_a_compiled_models_parameters_are_the_same():
    pytest.importorskip("torch._dynamo")
    pair = Pair("AdamW", {"lr": 0.01})
    compiled = [torch.compile(model, backend="eager") for model in pair.models]
    for batch in batches(3):
        for model, optimizer in zip(compiled, pair.optimizers, strict=True):
            optimizer.zero_grad()
            backward(model, batch)
            optimizer.step()
    pair.check()


@pytest.mark.parametrize("name", ["NAdam", "AdamW"])
def test_another_default_device(name):
    """Where new tensors would be made elsewhere, states are still on the CPU."""
    model = network().float()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    torch.set_default_device("meta")
    try:
        optimizer = getattr(ours, name)(model.parameters(), state_dtype="float8")
        optimizer.step()
        saved = copy.deepcopy(optimizer.state_dict())
        optimizer.load_state_dict(saved)
        optimizer.step()
    finally:
        torch.set_default_device(None)
    for entry in optimizer.state.values():
        assert {value.device.type for value in entry.values()} == {"cpu"}
        assert entry["step"] == 2
