"""Loading state dictionaries of torch.optim: both go on alike, or the difference is told and nothing changes.

The bound of test_updates_torch.py: units in the last place of an element's path, counted from where ours takes over.
"""

from __future__ import annotations

import copy
import inspect
import io

import numpy as np
import pytest
from measure import assert_same_bits, ulps

from onepass import optim

torch = pytest.importorskip("torch")

OLDER = "decoupled_weight_decay" not in inspect.signature(torch.optim.Adam).parameters  # as in torch 2.4
BOUND = 16
SHAPES = [(17,), (5, 7), ()]
CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9}),
    ("RMSprop", {"centered": True}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "amsgrad": True, "betas": (0.5, 0.8)}),
    ("Adadelta", {}),
    ("Adamax", {}),
    ("NAdam", {"lr": 0.01}),
    ("NAdam", {"lr": 0.01, "momentum_decay": 0.3, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.01}),
    ("RAdam", {"lr": 0.01, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("Rprop", {}),
    ("ASGD", {"lr": 0.1, "t0": 5.0}),
]
STRUCTURE = ("momentum", "centered", "amsgrad")  # what an optimizer is made with; the rest is loaded


@pytest.fixture
def scalars_in_double():
    """torch keeps NAdam's product of momenta and ASGD's rates in its default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def numbers(rng, shape, dtype=np.float32):
    a = np.asarray(rng.normal(size=shape))
    return np.asarray(a + np.copysign(0.1, a), dtype)


def torch_step(optimizer, tensors, grads):
    for tensor, grad in zip(tensors, grads, strict=True):
        tensor.grad = None if grad is None else torch.from_numpy(grad.copy()).to(tensor.dtype)
    optimizer.step()


def run_torch(name, options, shapes=SHAPES, dtype=np.float32, steps=3, seed=0):
    rng = np.random.default_rng(seed)
    tensors = [torch.tensor(numbers(rng, shape, dtype), requires_grad=True) for shape in shapes]
    optimizer = getattr(torch.optim, name)(tensors, **options)
    for _ in range(steps):
        torch_step(optimizer, tensors, [numbers(rng, shape, dtype) for shape in shapes])
    return optimizer, tensors


def arrays_of(tensors):
    return [np.array(tensor.detach().numpy()) for tensor in tensors]


def structure(options):
    return {name: options[name] for name in STRUCTURE if name in options}


def assert_go_on_alike(ours, params, theirs, tensors, rng, steps=20):
    dtype = params[0].dtype
    path = [np.abs(p).astype(np.float64) for p in params]
    for step in range(steps):
        grads = [numbers(rng, p.shape, dtype) for p in params]
        before = arrays_of(tensors)
        torch_step(theirs, tensors, grads)
        ours.step(grads)
        for i, (p, tensor, old) in enumerate(zip(params, tensors, before, strict=True)):
            expected = tensor.detach().numpy()
            path[i] = path[i] + 2 * np.abs(expected.astype(np.float64) - old)
            assert ulps(p, expected, path[i]) <= BOUND, step


@pytest.mark.usefixtures("scalars_in_double")
@pytest.mark.parametrize("steps", [1, 2, 30])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_both_go_on_alike(name, options, steps, dtype, rng):
    theirs, tensors = run_torch(name, {**options, "foreach": False}, dtype=dtype, steps=steps)
    params = arrays_of(tensors)
    ours = getattr(optim, name)(params, **structure(options))
    ours.load_state_dict(theirs.state_dict())
    assert_go_on_alike(ours, params, theirs, tensors, rng)


@pytest.mark.parametrize("execution", ["foreach", "fused"])
@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam", "AdamW"])
def test_it_does_not_matter_how_torch_executes(name, execution, rng):
    theirs, tensors = run_torch(name, {"lr": 0.01, execution: True})
    params = arrays_of(tensors)
    ours = getattr(optim, name)(params)
    ours.load_state_dict(theirs.state_dict())
    assert_go_on_alike(ours, params, theirs, tensors, rng)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_in_torchs_default_type_and_through_a_file(name, options):
    """Scalars in float32: NAdam's product of momenta is still recognized, after many steps too."""
    theirs, tensors = run_torch(name, options, shapes=[(3,)], steps=400)
    file = io.BytesIO()
    torch.save(theirs.state_dict(), file)
    file.seek(0)
    ours = getattr(optim, name)(arrays_of(tensors), **structure(options))
    ours.load_state_dict(torch.load(file, weights_only=True))
    if name != "SGD":
        assert ours.state_dict()["state"][0]["step"] == 400


@pytest.mark.usefixtures("scalars_in_double")
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_groups_and_parameters_that_never_had_a_gradient(name, options, rng):
    tensors = [torch.tensor(numbers(rng, shape, np.float64), requires_grad=True) for shape in SHAPES]

    def groups(params):
        return [{"params": params[:1]}, {"params": params[1:], "lr": 0.02}]

    theirs = getattr(torch.optim, name)(groups(tensors), **options, foreach=False)
    for step in range(5):
        grads = [numbers(rng, shape, np.float64) for shape in SHAPES]
        torch_step(theirs, tensors, [grads[0], None if step < 3 else grads[1], None])
    params = arrays_of(tensors)
    ours = getattr(optim, name)(
        groups(params),
        **{k: v for k, v in options.items() if k in (*STRUCTURE, "initial_accumulator_value")},
    )
    ours.load_state_dict(theirs.state_dict())
    steps = [entry["step"] for entry in ours.state_dict()["state"].values()]
    plain = name == "SGD" and "momentum" not in options
    assert steps == ([0, 0, 0] if plain else [1, 1, 0] if name == "SGD" else [5, 2, 0])
    assert [group["lr"] for group in ours.param_groups] == [theirs.param_groups[0]["lr"], 0.02]
    assert_go_on_alike(ours, params, theirs, tensors, rng)


@pytest.mark.parametrize(
    ("name", "options"),
    [("SGD", {"dampening": 0.3}), ("RMSprop", {}), ("RMSprop", {"centered": True})],
    ids=str,
)
def test_momentum_in_one_group_of_two(name, options, rng):
    """Ours keeps a buffer for both groups then, torch for one; and dampening is part of momentum."""
    tensors = [torch.tensor(numbers(rng, 9, np.float64), requires_grad=True) for _ in range(2)]

    def groups(params):
        return [{"params": params[:1], "momentum": 0.9}, {"params": params[1:]}]

    theirs = getattr(torch.optim, name)(groups(tensors), lr=0.01, foreach=False, **options)
    for _ in range(3):
        torch_step(theirs, tensors, [numbers(rng, 9, np.float64) for _ in tensors])
    params = arrays_of(tensors)
    ours = getattr(optim, name)(groups(params), **structure(options))
    ours.load_state_dict(theirs.state_dict())
    assert_go_on_alike(ours, params, theirs, tensors, rng)


@pytest.mark.skipif(OLDER, reason="this torch has no named parameters")
def test_what_schedulers_and_named_parameters_leave_in_a_group_is_dropped(rng):
    tensors = [torch.tensor(numbers(rng, 5), requires_grad=True)]
    theirs = torch.optim.AdamW([("weight", tensors[0])], lr=torch.tensor(0.25), foreach=False)
    schedule = torch.optim.lr_scheduler.OneCycleLR(theirs, max_lr=0.5, total_steps=10)
    torch_step(theirs, tensors, [numbers(rng, 5)])
    schedule.step()
    given = theirs.state_dict()
    assert {"initial_lr", "max_lr", "max_momentum", "param_names", "fused"} <= given["param_groups"][0].keys()
    params = arrays_of(tensors)
    ours = optim.AdamW(params)
    options = ours.param_groups[0].keys()
    ours.load_state_dict(given)
    (group,) = ours.param_groups
    assert group.keys() == options
    assert type(group["lr"]) is float
    assert group["lr"] == float(theirs.param_groups[0]["lr"])
    assert group["betas"] == theirs.param_groups[0]["betas"]
    assert group["params"][0] is params[0]
    assert_go_on_alike(ours, params, theirs, tensors, rng, steps=3)


def test_eps_goes_where_torch_has_it():
    theirs, tensors = run_torch("RMSprop", {})
    ours = optim.RMSprop(arrays_of(tensors), eps_inside=True)
    ours.load_state_dict(theirs.state_dict())
    assert ours.param_groups[0]["eps_inside"] is False


@pytest.mark.parametrize("bits", [torch.bfloat16, torch.float16], ids=str)
def test_tensors_of_fewer_bits(bits, rng):
    """torch keeps the states of such parameters in their type; ours take the same numbers."""
    tensors = [torch.tensor(numbers(rng, (6, 9))).to(bits).requires_grad_()]
    theirs = torch.optim.Adam(tensors)
    for _ in range(3):
        torch_step(theirs, tensors, [numbers(rng, (6, 9))])
    saved, params = theirs.state_dict(), [tensors[0].detach().view(torch.uint16).numpy().copy()]
    if bits is torch.float16:
        params = [params[0].view(np.float16)]
    for state_dtype in ("float32", "bfloat16"):
        ours = optim.Adam(params, dtype="bfloat16", state_dtype=state_dtype)
        ours.load_state_dict(saved)
        own = ours.state_dict()["state"][0]
        assert own["step"] == 3
        for name in ("exp_avg", "exp_avg_sq"):
            expected = saved["state"][0][name]
            if state_dtype == "float32":
                assert_same_bits(own[name], expected.float().numpy())
            else:
                assert_same_bits(own[name], expected.bfloat16().view(torch.uint16).numpy())


def test_states_in_float32_are_rounded_to_bfloat16():
    theirs, tensors = run_torch("Adam", {}, shapes=[(40, 30)])
    ours = optim.Adam(arrays_of(tensors), state_dtype="bfloat16")
    ours.load_state_dict(theirs.state_dict())
    for name in ("exp_avg", "exp_avg_sq"):
        expected = theirs.state_dict()["state"][0][name].bfloat16()
        assert_same_bits(ours.state_dict()["state"][0][name], expected.view(torch.uint16).numpy())


def test_states_are_copied_and_other_orders_of_axes_are_right(rng):
    tensors = [torch.tensor(numbers(rng, (4, 6))).T.requires_grad_()]
    theirs = torch.optim.Adam(tensors, foreach=False)
    torch_step(theirs, tensors, [numbers(rng, (6, 4))])
    params = arrays_of(tensors)
    ours = optim.Adam(params)
    ours.load_state_dict(theirs.state_dict())
    kept = theirs.state_dict()["state"][0]["exp_avg"].clone()
    ours.step([np.ones((6, 4), np.float32)])
    assert (theirs.state_dict()["state"][0]["exp_avg"] == kept).all()


def test_an_older_torchs_dictionary(rng):
    """SGD kept a None for a buffer; groups had neither maximize nor AdamW's decoupled_weight_decay."""
    theirs, tensors = run_torch("AdamW", {})
    saved = theirs.state_dict()
    for name in ("maximize", "decoupled_weight_decay", "foreach", "fused", "capturable", "differentiable"):
        saved["param_groups"][0].pop(name, None)
    ours = optim.AdamW(arrays_of(tensors))
    ours.load_state_dict(saved)
    assert ours.state_dict()["state"][2]["step"] == 3
    theirs, tensors = run_torch("SGD", {"lr": 0.5})
    saved = theirs.state_dict()
    saved["state"] = {i: {"momentum_buffer": None} for i in range(3)}
    ours = optim.SGD(arrays_of(tensors))
    ours.load_state_dict(saved)
    assert ours.param_groups[0]["lr"] == 0.5


# ---- what does not fit


def load(own, name, options=None, change=lambda saved: None, shapes=SHAPES):
    """Loads a dictionary of torch's `name`, after a change, into an optimizer that has stepped, and sees it refused."""
    theirs, _ = run_torch(name, options or {})
    saved = copy.deepcopy(theirs.state_dict())
    change(saved)
    make = getattr(optim, own) if isinstance(own, str) else own
    ours = make([np.zeros(shape, np.float32) for shape in shapes])
    ours.step([np.ones(shape, np.float32) for shape in shapes])
    before = copy.deepcopy(ours.state_dict())
    try:
        ours.load_state_dict(saved)
    finally:
        after = ours.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for i, entry in before["state"].items():
            assert after["state"][i].keys() == entry.keys()
            assert all(np.array_equal(after["state"][i][key], value) for key, value in entry.items())


RULES = ["SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD"]


@pytest.mark.parametrize("own", [*RULES, "Lion", "Signum", "AdaBound"])
@pytest.mark.parametrize("name", RULES)
def test_another_rule(own, name):
    if own == name:
        return
    if OLDER and {own, name} == {"Adam", "AdamW"}:
        pytest.skip("dictionaries of this torch's Adam and AdamW are alike")
    with pytest.raises(ValueError, match="torch's"):
        load(own, name)


def changed(**values):
    return lambda saved: saved["param_groups"][0].update(values)


def in_state(i, **values):
    return lambda saved: saved["state"][i].update(values)


@pytest.mark.parametrize(
    ("own", "name", "options", "change", "match"),
    [
        ("Adam", "Adam", {"amsgrad": True}, None, "max_exp_avg_sq"),
        (lambda p: optim.Adam(p, amsgrad=True), "Adam", {}, None, "no max_exp_avg_sq"),
        ("SGD", "SGD", {"momentum": 0.9}, None, "momentum"),
        (lambda p: optim.SGD(p, momentum=0.9), "SGD", {}, None, "momentum"),
        (lambda p: optim.RMSprop(p, centered=True), "RMSprop", {}, None, "grad_avg"),
        ("RMSprop", "RMSprop", {"momentum": 0.9}, None, "momentum"),
        ("Adam", "Adam", {}, changed(params=[0, 1]), r"groups of \[2\] parameters, this optimizer \[3\]"),
        ("Adam", "Adam", {}, lambda saved: saved["param_groups"].append({"params": []}), "groups"),
        ("Adam", "Adam", {}, changed(lr=-1.0), "lr"),
        ("Adam", "Adam", {}, changed(lr=torch.ones(2)), "lr: expected a number"),
        ("Adam", "Adam", {}, changed(betas=(0.9, 1.0)), "betas"),
        ("Adam", "Adam", {}, changed(learning_rate=1.0), "learning_rate"),
        ("Adam", "Adam", {"decoupled_weight_decay": True}, None, "decoupled_weight_decay=True"),
        ("AdamW", "Adam", {}, None, "decoupled_weight_decay=False"),
        ("Adam", "Adam", {}, lambda saved: saved["state"][1].pop("exp_avg_sq"), "parameter 1 has no exp_avg_sq"),
        ("Adam", "Adam", {}, lambda saved: saved["state"][1].pop("step"), "parameter 1 has no step"),
        ("Adagrad", "Adagrad", {}, lambda saved: saved["state"].pop(2), "parameter 2 has no"),
        ("Adam", "Adam", {}, in_state(2, momentum_buffer=torch.zeros(())), "parameter 2 has momentum_buffer"),
        ("Adam", "Adam", {}, lambda saved: saved["state"].update({7: {}}), "parameter 7"),
        ("Adam", "Adam", {}, in_state(1, step=torch.tensor(1.5)), "step of parameter 1"),
        ("Adam", "Adam", {}, in_state(1, step=torch.tensor(-1.0)), "step of parameter 1"),
        ("Adam", "Adam", {}, in_state(1, step=torch.tensor(float("nan"))), "step of parameter 1"),
        ("Adam", "Adam", {}, in_state(1, exp_avg=torch.zeros(7, 5)), r"exp_avg of parameter 1 is float32 \(7, 5\)"),
        ("Adam", "Adam", {}, in_state(2, exp_avg=torch.zeros((), dtype=torch.float64)), "parameter 2 is float64"),
        (
            lambda p: optim.Adam(p, state_dtype="bfloat16"), "Adam", {},
            in_state(2, exp_avg=torch.zeros((), dtype=torch.float64)), "parameter 2 is float64",
        ),
        ("NAdam", "NAdam", {}, changed(momentum_decay=0.5), "mu_product of parameter 0"),
        ("NAdam", "NAdam", {}, changed(betas=(0.8, 0.999)), "mu_product of parameter 0"),
        ("NAdam", "NAdam", {}, in_state(1, mu_product=torch.tensor(float("nan"))), "mu_product of parameter 1"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)  # fmt: skip
def test_what_differs_is_told(own, name, options, change, match):
    if OLDER and "decoupled_weight_decay" in match:
        pytest.skip("this torch's Adam has no such option")
    with pytest.raises(ValueError, match=match):
        load(own, name, options, change or (lambda saved: None))


@pytest.mark.parametrize("dtype_of_torch", ["float32", "float64"])
def test_float64_and_float32_states_do_not_stand_in_for_each_other(dtype_of_torch):
    theirs, tensors = run_torch("Adam", {}, dtype=np.dtype(dtype_of_torch))
    other = np.float64 if dtype_of_torch == "float32" else np.float32
    ours = optim.Adam([p.astype(other) for p in arrays_of(tensors)])
    with pytest.raises(ValueError, match=f"exp_avg of parameter 0 is {dtype_of_torch}"):
        ours.load_state_dict(theirs.state_dict())


def test_a_broken_dictionary_of_ours_is_not_taken_for_torchs():
    ours = optim.Adam([np.zeros(3)])
    saved = ours.state_dict()
    del saved["update"]
    with pytest.raises(ValueError, match="has no 'update'"):
        ours.load_state_dict(saved)
