"""The optimizers of onepass.torch against torch.optim's single-tensor ones, and against onepass.optim.

The bound is that of test_updates_torch.py: units in the last place of an element's path.
"""

from __future__ import annotations

import copy
import inspect
import math

import numpy as np
import pytest
from measure import assert_same_bits, ulps

from onepass import optim

torch = pytest.importorskip("torch")
ours = pytest.importorskip("onepass.torch")

OLDER = "decoupled_weight_decay" not in inspect.signature(torch.optim.Adam).parameters  # as in torch 2.4
BOUND = 16
SHAPES = [(17,), (5, 7), (), (2, 3, 4), (0, 3)]
CASES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    ("Adagrad", {"lr": 0.1}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3}),
    ("RMSprop", {}),
    ("RMSprop", {"momentum": 0.9, "alpha": 0.9}),
    ("RMSprop", {"centered": True, "maximize": True}),
    ("RMSprop", {"centered": True, "momentum": 0.9, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01}),
    ("Adam", {"lr": 0.01, "amsgrad": True, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.01, "betas": (0.5, 0.8), "eps": 1e-3, "maximize": True}),
    ("AdamW", {"lr": 0.01}),
    ("AdamW", {"lr": 0.01, "amsgrad": True, "betas": (0.5, 0.8), "weight_decay": 0.3}),
    ("Adadelta", {}),
    ("Adadelta", {"lr": 0.5, "rho": 0.5, "weight_decay": 0.1}),
    ("Adamax", {}),
    ("Adamax", {"weight_decay": 0.1, "maximize": True}),
    ("NAdam", {"lr": 0.01}),
    ("NAdam", {"lr": 0.01, "momentum_decay": 0.3, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("RAdam", {"lr": 0.01}),
    ("RAdam", {"lr": 0.01, "decoupled_weight_decay": True, "weight_decay": 0.1}),
    ("Rprop", {}),
    ("Rprop", {"etas": (0.3, 1.5), "step_sizes": (1e-4, 0.1)}),
    ("ASGD", {"lr": 0.1, "t0": 5.0}),
    ("ASGD", {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "weight_decay": 0.1}),
]
TORCHS = sorted({name for name, _ in CASES})
OWN = [
    ("Lion", {"lr": 0.01, "weight_decay": 0.1}),
    ("Signum", {"lr": 0.01}),
    ("AdaBound", {"lr": 0.01, "amsbound": True}),
    ("AdaBound", {"lr": 0.01, "final_lr": 0.02, "gamma": 0.1}),
    ("LAMB", {"lr": 0.01, "weight_decay": 0.1}),
    ("LARS", {"lr": 0.1, "weight_decay": 0.1}),
    ("SWATS", {"lr": 0.01, "tolerance": 0.05}),
]


@pytest.fixture(autouse=True)
def scalars_in_double(request):
    """torch keeps step counts, NAdam's product of momenta and ASGD's rates in its default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def numbers(rng, shape, dtype=np.float32):
    a = np.asarray(rng.normal(size=shape))
    return np.asarray(a + np.copysign(0.1, a), dtype)


def parameters(arrays):
    return [torch.nn.Parameter(torch.tensor(a)) for a in arrays]


def give(params, grads):
    for p, grad in zip(params, grads, strict=True):
        p.grad = None if grad is None else torch.tensor(grad).to(p.dtype)


def arrays_of(tensors):
    return [np.array(t.detach().numpy()) for t in tensors]


class Twins:
    """The same parameters twice, stepped on the same gradients by ours and by torch's."""

    def __init__(self, name, options, shapes=SHAPES, dtype=np.float32, groups=lambda params: params, seed=0, **own):
        self.rng = np.random.default_rng(seed)
        start = [numbers(self.rng, shape, dtype) for shape in shapes]
        self.shapes, self.dtype = shapes, dtype
        self.params, self.twins = parameters(start), parameters(start)
        self.optimizer = getattr(ours, name)(groups(self.params), **options, **own)
        self.twin = getattr(torch.optim, name)(groups(self.twins), **options, foreach=False)
        self.path = [np.asarray(np.abs(a), np.float64) for a in start]

    def step(self, absent=()):
        grads = [None if i in absent else numbers(self.rng, s, self.dtype) for i, s in enumerate(self.shapes)]
        give(self.params, grads)
        give(self.twins, grads)
        self.optimizer.step()
        before = arrays_of(self.twins)
        self.twin.step()
        for length, p, old in zip(self.path, self.twins, before, strict=True):
            length[...] += 2 * np.abs(p.detach().numpy().astype(np.float64) - old)

    def check(self, bound=BOUND):
        for p, q, length in zip(self.params, self.twins, self.path, strict=True):
            assert ulps(p.detach().numpy(), q.detach().numpy(), length) <= bound


def assert_same_states(optimizer, twin, relative):
    """The dictionaries have the same groups and entries, of the same types and shapes, with nearly the same numbers."""
    a, b = optimizer.state_dict(), twin.state_dict()
    apart = {"foreach"} | ({"decoupled_weight_decay"} if OLDER else set())
    for own, other in zip(a["param_groups"], b["param_groups"], strict=True):
        assert {k: v for k, v in own.items() if k not in apart} == {k: v for k, v in other.items() if k not in apart}
    assert a["state"].keys() == b["state"].keys()
    for key, entry in b["state"].items():
        assert list(a["state"][key]) == list(entry) or set(a["state"][key]) == set(entry)
        for name, value in entry.items():
            own = a["state"][key][name]
            assert (own.dtype, own.shape) == (value.dtype, value.shape), name
            assert own.stride() == value.stride() or not own.numel(), name
            torch.testing.assert_close(own, value, rtol=relative, atol=relative)


# ---- formulas


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_forty_steps(name, options, dtype):
    twins = Twins(name, options, dtype=dtype)
    for _ in range(40):
        twins.step()
    twins.check()
    assert_same_states(twins.optimizer, twins.twin, 1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_parameters_without_gradients_rest(name, options):
    """A parameter that has none now, one that never has one, and one whose first comes late."""
    twins = Twins(name, options, shapes=[(9,), (5,), (4,), (3, 2)], dtype=np.float64)
    for step in range(12):
        twins.step(absent={1, *([0] if step % 3 == 1 else []), *([2] if step < 5 else [])})
    twins.check()
    assert_same_states(twins.optimizer, twins.twin, 1e-12)


@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_groups_of_their_own_and_one_that_comes_later(name, options, dtype):
    def groups(params):
        return [{"params": params[:1], "lr": 0.02}, {"params": params[1:3]}]

    if OLDER and name == "Adagrad":
        pytest.skip("this torch's Adagrad makes no states for a group that comes later")
    twins = Twins(name, options, shapes=[(7,), (5,), (2, 3), (4,)], dtype=dtype, groups=groups)
    for step in range(10):
        if step == 4:
            twins.optimizer.add_param_group({"params": twins.params[3:], "lr": 0.05})
            twins.twin.add_param_group({"params": twins.twins[3:], "lr": 0.05})
        twins.step(absent={3} if step < 4 else ())
    twins.check()
    assert_same_states(twins.optimizer, twins.twin, 1e-4 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize(
    ("name", "option", "values"),
    [
        ("Adam", "amsgrad", [True, False]),
        ("SGD", "momentum", [0.9, 0.0]),
        ("SGD", "momentum", [0.0, 0.5]),
        ("RMSprop", "centered", [True, False]),
        ("RMSprop", "momentum", [0.0, 0.9]),
        ("Adam", "decoupled_weight_decay", [False, True]),
        ("Adam", "maximize", [False, True]),
    ],
)
def test_groups_that_need_different_updates(name, option, values, dtype):
    """One native call each."""
    if OLDER and option == "decoupled_weight_decay":
        pytest.skip("this torch's Adam has no such option")

    def groups(params):
        return [{"params": [p], option: value} for p, value in zip(params, values, strict=True)]

    twins = Twins(name, {"lr": 0.01, "weight_decay": 0.1}, shapes=[(7,), (5, 2)], dtype=dtype, groups=groups)
    for _ in range(8):
        twins.step()
    twins.check()
    assert_same_states(twins.optimizer, twins.twin, 1e-4 if dtype == np.float32 else 1e-12)


def test_options_are_assigned_between_steps():
    twins = Twins("SGD", {"lr": 0.1, "momentum": 0.9}, dtype=np.float64)
    for step in range(12):
        for optimizer in (twins.optimizer, twins.twin):
            optimizer.param_groups[0].update(lr=0.1 / (step + 1), momentum=0.9 - 0.05 * step, weight_decay=0.01 * step)
        twins.step()
    twins.check()


def test_momentum_that_begins_later():
    twins = Twins("SGD", {"lr": 0.1, "dampening": 0.5}, dtype=np.float64)
    for step in range(6):
        if step == 3:
            twins.optimizer.param_groups[0]["momentum"] = twins.twin.param_groups[0]["momentum"] = 0.9
        twins.step()
    twins.check()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "options"), [*CASES, *OWN], ids=str)
def test_halves_are_stepped_as_by_onepass(name, options, half, rng):
    """torch computes such steps in 16 bits or not at all; ours are float32's, rounded once."""
    start = [torch.tensor(numbers(rng, shape)).to(half) for shape in SHAPES]
    params = [torch.nn.Parameter(p.clone()) for p in start]
    bits = torch.uint16 if half == torch.bfloat16 else half
    arrays = [p.clone().view(bits).numpy() for p in start]
    optimizer = getattr(ours, name)(params, **options)
    twin = getattr(optim, name)(arrays, **options, dtype="bfloat16")
    for _ in range(5):
        grads = [torch.tensor(numbers(rng, shape)).to(half) for shape in SHAPES]
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        optimizer.step()
        twin.step([grad.view(bits).numpy() for grad in grads])
    for p, array in zip(params, arrays, strict=True):
        assert_same_bits(p.detach().view(bits).numpy(), array)
    for i, p in enumerate(params):
        for state in twin.update.states:
            own = optimizer.state[p]["sum" if state == "state_sum" else state]
            assert own.dtype == torch.float32
            assert_same_bits(own.numpy(), twin.state_dict()["state"][i][state])


@pytest.mark.parametrize(("name", "options"), OWN, ids=str)
def test_rules_that_torch_has_not_step_as_onepass(name, options, dtype, rng):
    start = [numbers(rng, shape, dtype) for shape in SHAPES]
    params, arrays = parameters(start), [a.copy() for a in start]
    optimizer, twin = getattr(ours, name)(params, **options), getattr(optim, name)(arrays, **options)
    for step in range(12):
        grads = [numbers(rng, shape, dtype) for shape in SHAPES]
        grads[0] = None if step % 4 == 2 else grads[0]
        give(params, grads)
        optimizer.step()
        twin.step(grads)
    for p, array in zip(params, arrays, strict=True):
        assert_same_bits(p.detach().numpy(), array)
    if name == "SWATS":
        assert optimizer.phases == twin.phases == ["sgd"]
        assert optimizer.state_dict()["param_groups"][0]["sgd_ratio"] == twin.param_groups[0]["sgd_ratio"]


def test_lion_is_the_authors(rng):
    """The formula of the authors' PyTorch code (google/automl, lion_pytorch.py), written once more in torch."""
    start = numbers(rng, (50,), np.float64)
    (p,), q, m = parameters([start]), torch.tensor(start), torch.zeros(50)
    optimizer = ours.Lion([p], lr=0.01, betas=(0.9, 0.99), weight_decay=0.1)
    for _ in range(10):
        grad = torch.tensor(numbers(rng, (50,), np.float64))
        p.grad = grad
        optimizer.step()
        q.mul_(1 - 0.01 * 0.1)
        q.add_(torch.sign(m * 0.9 + grad * (1 - 0.9)), alpha=-0.01)
        m.mul_(0.99).add_(grad, alpha=1 - 0.99)
    assert ulps(p.detach().numpy(), q.numpy(), np.abs(start) + 1) <= BOUND


# ---- where tensors lie


def views(rng, dtype):
    base = torch.tensor(numbers(rng, (40, 6), dtype))
    return {
        "every third": torch.tensor(numbers(rng, 60, dtype))[2::3],
        "transposed": base.T,
        "a column": base[:, 2],
        "rows apart": base[::2, 1:4],
        "channels last": torch.tensor(numbers(rng, (2, 3, 4, 5), dtype)).to(memory_format=torch.channels_last),
    }


@pytest.mark.parametrize("layout", ["every third", "transposed", "a column", "rows apart", "channels last"])
@pytest.mark.parametrize("grads", ["contiguous", "alike"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_views_are_written_where_they_lie_and_nothing_beside_them(name, options, grads, layout, rng):
    """torch 2.13's fused kernels take them for contiguous."""
    view = views(rng, np.float64)[layout]
    memory = torch.empty(0).set_(view.untyped_storage())
    before = memory.clone()
    p, q = view.detach().requires_grad_(), view.contiguous().clone().requires_grad_()
    assert p.data_ptr() == view.data_ptr()
    optimizer = getattr(ours, name)([p], **options)
    twin = getattr(torch.optim, name)([q], foreach=False, **options)
    for _ in range(3):
        grad = torch.tensor(numbers(rng, tuple(view.shape), np.float64))
        q.grad = grad
        p.grad = grad if grads == "contiguous" else torch.empty_like(p).copy_(grad)
        optimizer.step()
        twin.step()
    assert ulps(p.detach().numpy(), q.detach().numpy(), np.abs(q.detach().numpy()) + 1) <= BOUND
    with torch.no_grad():
        view.zero_()
        touched = torch.empty_strided(view.shape, view.stride())
        index = torch.arange(memory.numel()).as_strided(view.shape, view.stride(), view.storage_offset())
        before.view(-1)[index.reshape(-1)] = 0
    assert touched.shape == view.shape
    assert torch.equal(memory, before)


def test_a_parameter_that_moves_is_followed(rng):
    """By .data, as ZeroRedundancyOptimizer, swap_tensors and .to() do it; in a new layout too."""
    twins = Twins("Adam", {"lr": 0.01}, shapes=[(6, 6), (4,)], dtype=np.float64)
    twins.step()
    for change in (
        lambda p: p.clone(),
        lambda p: p.T.contiguous().T if p.ndim == 2 else p.clone(),
        lambda p: torch.stack([p, p], -1)[..., 1],
    ):
        for p in twins.params:
            p.data = change(p.data)
        twins.step()
        twins.step()
    twins.check()


def test_a_square_parameter_that_is_transposed_where_it_lies():
    twins = Twins("Adam", {"lr": 0.01}, shapes=[(6, 6), (4,)], dtype=np.float64)
    twins.step()
    square = twins.params[0]
    address, values = square.data_ptr(), square.detach().clone()
    square.data = square.data.t()
    with torch.no_grad():
        square.copy_(values)
    assert square.data_ptr() == address
    assert not square.is_contiguous()
    twins.step()
    twins.check()


def test_a_parameter_that_is_cut_where_it_lies():
    p = torch.nn.Parameter(torch.ones(6))
    optimizer = ours.SGD([p], lr=0.5)
    memory = p.data
    for n in (6, 4, 5):
        p.data = memory[:n]
        p.grad = torch.ones(n)
        optimizer.step()
    assert memory.tolist() == [-0.5, -0.5, -0.5, -0.5, 0.0, 0.5]
    optimizer = ours.Adam([p])
    optimizer.step()
    p.data, p.grad = memory[:2], torch.ones(2)
    with pytest.raises(ValueError, match="exp_avg: expected shape"):
        optimizer.step()


def test_a_first_step_that_is_skipped_is_not_made():
    """SGD's buffer begins with the first gradient that counts, also where parameters were looked at anew."""
    p, q = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    options = {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}
    optimizer, twin = ours.SGD([p], max_norm=10.0, **options), torch.optim.SGD([q], **options)
    p.grad = torch.full((3,), np.inf)
    optimizer.step()
    assert optimizer.last_step.skipped
    assert not optimizer.state
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    for _ in range(2):
        p.grad, q.grad = torch.ones(3), torch.ones(3)
        optimizer.step()
        twin.step()
    torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


def test_states_that_are_replaced_are_followed(rng):
    twins = Twins("Adam", {"lr": 0.01}, dtype=np.float64)
    twins.step()
    for optimizer, params in ((twins.optimizer, twins.params), (twins.twin, twins.twins)):
        optimizer.state[params[0]]["exp_avg"] = torch.full((17,), 0.5)
        optimizer.state[params[1]] = {
            "step": torch.tensor(9.0),
            "exp_avg": torch.ones(5, 7),
            "exp_avg_sq": torch.ones(5, 7),
        }
        optimizer.state[params[3]]["step"].fill_(100.0)
        optimizer.state[params[3]]["exp_avg_sq"].mul_(3.0)
    twins.step()
    for optimizer, params in ((twins.optimizer, twins.params), (twins.twin, twins.twins)):
        optimizer.state[params[1]]["step"].fill_(2.0)
    twins.step()
    twins.check()
    assert_same_states(twins.optimizer, twins.twin, 1e-12)


def test_states_that_move_are_followed():
    """By .data, as what offloads states does it, and by share_memory_, which moves what is there."""
    twins = Twins("Adam", {"lr": 0.01}, shapes=[(4000,), (5, 7)], dtype=np.float64)
    twins.step()
    for move in (
        lambda state: setattr(state["exp_avg"], "data", state["exp_avg"].data.clone()),
        lambda state: state["exp_avg_sq"].share_memory_(),
        lambda state: state["step"].share_memory_(),
    ):
        for optimizer, params in ((twins.optimizer, twins.params), (twins.twin, twins.twins)):
            for p in params:
                move(optimizer.state[p])
                optimizer.state[p]["exp_avg"].mul_(-2.0)
                optimizer.state[p]["exp_avg_sq"].mul_(3.0)
        twins.step()
        twins.step()
        twins.check()
        assert_same_states(twins.optimizer, twins.twin, 1e-12)


def test_a_parameter_that_is_cut_beside_an_old_gradient():
    memory = torch.ones(6)
    p = torch.nn.Parameter(memory)
    optimizer = ours.SGD([p], lr=0.5)
    p.grad = torch.ones(6)
    optimizer.step()
    p.data = p.data[:4]
    with pytest.raises(ValueError, match="grad: expected shape"):
        optimizer.step()
    assert memory.tolist() == [0.5] * 6


def test_a_parameter_of_another_type_where_it_lies():
    memory = torch.ones(6, dtype=torch.float16)
    p = torch.nn.Parameter(memory)
    optimizer = ours.SGD([p], lr=0.5)
    p.grad = torch.ones(6, dtype=torch.float16)
    optimizer.step()
    p.grad = None
    p.data = memory.view(torch.bfloat16).fill_(1.0)
    p.grad = torch.ones(6, dtype=torch.bfloat16)
    optimizer.step()
    assert p.tolist() == [0.5] * 6


@pytest.mark.parametrize(
    ("master", "half"), [("float32", torch.float16), ("float32", torch.bfloat16), ("split", torch.bfloat16)]
)
def test_weights_that_somebody_else_writes_reach_the_master_weights(master, half, rng):
    p = torch.nn.Parameter(torch.tensor(numbers(rng, 100)).to(half))
    optimizer = ours.SGD([p], lr=2.0**-12, master_weights=master)
    p.grad = torch.ones_like(p)
    for _ in range(3):
        optimizer.step()
    before = optimizer.state[p][{"float32": "master", "split": "lower"}[master]].clone()
    with torch.no_grad():
        p[:50] = 5.0
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert p[:50].tolist() == [5.0] * 50
    after = optimizer.state[p][{"float32": "master", "split": "lower"}[master]]
    assert torch.equal(after[50:], before[50:])
    saved, changed = optimizer.state_dict(), torch.nn.Parameter(torch.full((100,), 3.0, dtype=half))
    other = ours.SGD([changed], lr=0.5, master_weights=master)
    other.load_state_dict(saved)
    changed.grad = torch.zeros_like(changed)
    other.step()
    assert changed.tolist() == [3.0] * 100


def test_gradients_live_until_the_step_is_made(monkeypatch):
    """Another thread may drop them between the look at their addresses and the step; afterwards nothing holds them."""
    import gc
    import weakref

    p = torch.nn.Parameter(torch.zeros(1 << 16))
    optimizer = ours.SGD([p], lr=1.0, max_norm=1e9)
    alive = []

    def dropped(bound, addresses):
        grad, p.grad = weakref.ref(p.grad), None
        gc.collect()
        alive.append(grad)
        assert grad() is not None
        return norm(bound, addresses)

    kind = pytest.importorskip("onepass.torch._bound").Bound
    norm = kind.norm
    monkeypatch.setattr(kind, "norm", dropped)
    for value in (1.0, np.inf):
        p.grad = torch.full((1 << 16,), value)
        optimizer.step()
        gc.collect()
        assert alive[-1]() is None
    assert optimizer.last_step.skipped
    assert torch.equal(p, torch.full((1 << 16,), -1.0))


def test_threads_that_share_an_optimizer():
    """Their steps come one after the other, each on gradients that live."""
    import threading

    params = [torch.nn.Parameter(torch.zeros(3000)) for _ in range(20)]
    optimizer, failed = ours.SGD(params, lr=2.0**-10), []

    def work():
        try:
            for _ in range(100):
                for p in params:
                    p.grad = torch.ones(3000)
                optimizer.step()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    made = optimizer._bounds[0].plan.steps
    for p, steps in zip(params, made, strict=True):
        assert torch.equal(p, torch.full((3000,), -steps * 2.0**-10))
    assert made == [300] * 20


def test_a_state_that_is_forgotten_begins_anew():
    twins = Twins("AdamW", {"lr": 0.01}, dtype=np.float64)
    twins.step()
    del twins.optimizer.state[twins.params[1]], twins.twin.state[twins.twins[1]]
    twins.step()
    twins.optimizer.state.clear()
    twins.twin.state.clear()
    twins.step()
    twins.check()
    assert_same_states(twins.optimizer, twins.twin, 1e-12)


def test_gradients_may_be_new_tensors_or_the_same(rng):
    """zero_grad(set_to_none) either way; nothing of a gradient is held."""
    import gc
    import weakref

    for set_to_none in (True, False):
        model = torch.nn.Linear(5, 3)
        twin = copy.deepcopy(model)
        optimizer, other = ours.Adam(model.parameters()), torch.optim.Adam(twin.parameters())
        x = torch.tensor(numbers(rng, (8, 5), np.float64))
        for _ in range(5):
            for m, o in ((model, optimizer), (twin, other)):
                o.zero_grad(set_to_none=set_to_none)
                m(x).square().mean().backward()
                o.step()
        for p, q in zip(model.parameters(), twin.parameters(), strict=True):
            assert ulps(p.detach().numpy(), q.detach().numpy(), np.abs(p.detach().numpy()) + 1) <= BOUND
        grads = [weakref.ref(p.grad) for p in model.parameters()]
        optimizer.zero_grad()
        gc.collect()
        assert [ref() for ref in grads] == [None, None]


# ---- 16 and 8 bits, master weights, clipping


@pytest.mark.parametrize("state_dtype", ["float32", "bfloat16", "float8"])
@pytest.mark.parametrize("stochastic", [None, True])
@pytest.mark.parametrize("master", [None, "float32", "split"])
@pytest.mark.parametrize(
    ("name", "options"), [("Adam", {}), ("SGD", {"momentum": 0.9, "lr": 0.1}), ("SGD", {"lr": 0.1})]
)
def test_storage_is_that_of_onepass(name, options, master, stochastic, state_dtype, rng):
    shapes = [(300,), (5, 7), ()]
    start = [torch.tensor(numbers(rng, shape)).bfloat16() for shape in shapes]
    storage = {"state_dtype": state_dtype, "stochastic_rounding": stochastic, "master_weights": master, "seed": 7}
    params = [torch.nn.Parameter(p.clone()) for p in start]
    arrays = [p.clone().view(torch.uint16).numpy() for p in start]
    optimizer = getattr(ours, name)(params, **options, **storage)
    twin = getattr(optim, name)(arrays, **options, dtype="bfloat16", **storage)

    def step(optimizer):
        grads = [torch.tensor(numbers(rng, shape)).bfloat16() for shape in shapes]
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        optimizer.step()
        twin.step([grad.view(torch.uint16).numpy() for grad in grads])
        for p, array in zip(params, arrays, strict=True):
            assert_same_bits(p.detach().view(torch.uint16).numpy(), array)

    for _ in range(4):
        step(optimizer)
    saved = copy.deepcopy(optimizer.state_dict())
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float8": torch.uint8}
    for i, entry in saved["state"].items():
        for state, value in entry.items():
            own = {"master": torch.float32, "lower": torch.int16, "step": torch.float64, "axes": torch.int64}
            assert value.dtype == own.get(state, kinds[state_dtype]), state
            if state not in own:
                bits = value.view(torch.uint16) if value.dtype == torch.bfloat16 else value
                assert_same_bits(bits.numpy(), twin.state_dict()["state"][i][state])
    fresh = getattr(ours, name)(params, **options, **storage)
    fresh.load_state_dict(saved)
    for _ in range(3):
        step(fresh)


def test_eight_bit_states_know_the_order_of_memory(rng):
    p = torch.nn.Parameter(torch.tensor(numbers(rng, (20, 30))).T)
    optimizer = ours.Adam([p], state_dtype="float8")
    p.grad = torch.tensor(numbers(rng, (30, 20)))
    optimizer.step()
    saved = copy.deepcopy(optimizer.state_dict())
    assert saved["state"][0]["axes"].tolist() == [1, 0]
    other = ours.Adam([torch.nn.Parameter(p.detach().contiguous())], state_dtype="float8")
    with pytest.raises(ValueError, match=r"axes \[1, 0\].*along \[0, 1\]"):
        other.load_state_dict(saved)
    p.data = p.data.contiguous()
    with pytest.raises(ValueError, match=r"^params\[0\] of group 0: .*order \[0, 1\] now.*order \[1, 0\] that it had"):
        optimizer.step()


def test_a_model_that_becomes_channels_last_beside_8_bit_states():
    """The message is of the parameter, and the way back works."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Conv2d(2, 3, 4)).float()
    optimizer = ours.AdamW([{"params": model[0].parameters()}, {"params": model[1].parameters()}], state_dtype="float8")

    def step():
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()

    step()
    before = [p.detach().clone() for p in model.parameters()]
    model.to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match=r"^params\[0\] of group 1: .*\[0, 2, 3, 1\] now.*\[0, 1, 2, 3\] that it had"):
        step()
    assert all(map(torch.equal, model.parameters(), before))
    model.to(memory_format=torch.contiguous_format)
    step()
    assert optimizer.state[model[1].weight]["step"] == 2


@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_max_norm_is_clip_grad_norm(name, options, scale):
    twins = Twins(name, options, dtype=np.float64, max_norm=0.5)
    for _ in range(5):
        grads = [scale * numbers(twins.rng, s, np.float64) for s in SHAPES]
        give(twins.params, grads)
        give(twins.twins, grads)
        norm = torch.nn.utils.clip_grad_norm_(twins.twins, 0.5)
        twins.optimizer.step()
        assert twins.optimizer.last_step == (pytest.approx(norm.item(), rel=1e-13), False)
        for p, grad in zip(twins.params, grads, strict=True):
            assert np.array_equal(p.grad.numpy(), grad)  # left as it was
        before = arrays_of(twins.twins)
        twins.twin.step()
        for length, p, old in zip(twins.path, twins.twins, before, strict=True):
            length[...] += 2 * np.abs(p.detach().numpy() - old)
    twins.check()


def test_max_norm_is_of_all_groups_and_updates():
    def groups(params):
        return [{"params": params[:2], "amsgrad": True}, {"params": params[2:]}]

    twins = Twins("Adam", {"lr": 0.1}, dtype=np.float64, groups=groups, max_norm=0.01)
    for _ in range(3):
        grads = [numbers(twins.rng, s, np.float64) for s in SHAPES]
        give(twins.params, grads)
        give(twins.twins, grads)
        torch.nn.utils.clip_grad_norm_(twins.twins, 0.01)
        twins.optimizer.step()
        twins.twin.step()
    for p, q in zip(twins.params, twins.twins, strict=True):
        assert ulps(p.detach().numpy(), q.detach().numpy(), np.abs(q.detach().numpy()) + 1) <= BOUND
    twins.optimizer.max_norm = None
    twins.step()
    assert twins.optimizer.last_step == (None, False)


def test_a_norm_that_is_not_finite_changes_nothing():
    twins = Twins("AdamW", {"lr": 0.1}, dtype=np.float64, max_norm=1.0)
    twins.step()
    before, states = arrays_of(twins.params), copy.deepcopy(twins.optimizer.state_dict())
    versions = [p._version for p in twins.params]
    give(twins.params, [np.full(s, np.nan) for s in SHAPES])
    twins.optimizer.step()
    assert twins.optimizer.last_step.skipped
    assert math.isnan(twins.optimizer.last_step.grad_norm)
    for p, old in zip(twins.params, before, strict=True):
        assert np.array_equal(p.detach().numpy(), old)
    assert [p._version for p in twins.params] == versions
    for key, entry in twins.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, states["state"][key][name]) for name, value in entry.items())


def test_max_value_is_clip_grad_value():
    twins = Twins("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}, dtype=np.float64, max_value=0.2)
    for _ in range(4):
        grads = [numbers(twins.rng, s, np.float64) for s in SHAPES]
        give(twins.params, grads)
        give(twins.twins, grads)
        torch.nn.utils.clip_grad_value_(twins.twins, 0.2)
        twins.optimizer.step()
        twins.twin.step()
    twins.check()


# ---- arguments


@pytest.mark.parametrize("name", TORCHS)
def test_arguments_are_torchs(name):
    own, theirs = (dict(inspect.signature(getattr(m, name)).parameters) for m in (ours, torch.optim))
    defaults = [getattr(m, name)([torch.nn.Parameter(torch.ones(2))], lr=0.1).defaults for m in (ours, torch.optim)]
    if OLDER and name in ("Adam", "AdamW"):
        own.pop("decoupled_weight_decay", None)
        del defaults[0]["decoupled_weight_decay"]
    assert [(p.name, p.kind) for p in own.values()][:-1] == [(p.name, p.kind) for p in theirs.values()]
    for parameter in list(theirs.values())[1:]:
        assert own[parameter.name].default == parameter.default
    assert defaults[0].keys() == defaults[1].keys()


@pytest.mark.parametrize("name", [name for name, _ in OWN])
def test_arguments_are_those_of_onepass(name):
    own, theirs = inspect.signature(getattr(ours, name)).parameters, inspect.signature(getattr(optim, name)).parameters
    expected = [p for p in theirs.values() if p.name not in ("max_norm", "max_value", "storage", "params")]
    assert [(p.name, p.default) for p in list(own.values())[1:-1]] == [(p.name, p.default) for p in expected]


REFUSED = [
    (name, flag)
    for name in TORCHS
    for flag in ("capturable", "differentiable")
    if flag in inspect.signature(getattr(torch.optim, name)).parameters
]


@pytest.mark.parametrize(("name", "flag"), REFUSED)
def test_what_cannot_be_is_refused(name, flag):
    p = torch.nn.Parameter(torch.ones(2))
    with pytest.raises(ValueError, match=flag):
        getattr(ours, name)([p], **{flag: True})
    optimizer = getattr(ours, name)([p])
    with pytest.raises(ValueError, match=flag):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(2))], flag: True})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_foreach_and_fused_change_nothing(name, rng):
    start, results = numbers(rng, 20, np.float64), []
    for flags in ({}, {"foreach": True}, {"fused": True}, {"foreach": False, "fused": False}):
        (p,) = parameters([start])
        p.grad = torch.ones(20)
        getattr(ours, name)([p], **flags).step()
        results.append(p.detach().numpy())
    for result in results:
        assert_same_bits(result, results[0])
    with pytest.raises(RuntimeError, match=r"fused.*foreach"):
        getattr(ours, name)([p], foreach=True, fused=True)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("Adam", {"lr": -1.0}, "lr"),
        ("Adam", {"lr": torch.ones(2)}, "lr: expected a number or a tensor of one element"),
        ("Adam", {"betas": (0.9, 1.0)}, "betas"),
        ("Adam", {"eps": -1.0}, "eps"),
        ("Adam", {"weight_decay": float("nan")}, "weight_decay"),
        ("SGD", {"nesterov": True}, "nesterov"),
        ("SGD", {"momentum": -0.1}, "momentum"),
        ("Rprop", {"etas": (1.5, 1.2)}, "etas"),
        ("Adam", {"state_dtype": "int8"}, "'float32', 'bfloat16', 'float8'"),
        ("Adam", {"master_weights": "float16"}, "master_weights"),
        ("Adam", {"max_norm": 0.0}, "max_norm"),
        ("Adam", {"seed": -1}, "seed"),
    ],
)
def test_options_out_of_their_range(name, options, match):
    with pytest.raises(ValueError, match=match):
        getattr(ours, name)([torch.nn.Parameter(torch.ones(2))], **options)
    if options.keys() & {"max_norm", "state_dtype", "master_weights", "seed"}:
        return
    p = torch.nn.Parameter(torch.ones(2))
    optimizer = getattr(ours, name)([p])
    p.grad = torch.ones(2)
    optimizer.step()
    optimizer.param_groups[0].update(options)
    before = p.detach().clone()
    with pytest.raises(ValueError, match=match):
        optimizer.step()
    assert torch.equal(p, before)


@pytest.mark.parametrize("unknown", ["dtype", "copies", "learning_rate"])
def test_unknown_arguments(unknown):
    with pytest.raises(TypeError, match=unknown):
        ours.Adam([torch.nn.Parameter(torch.ones(2))], **{unknown: None})


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: torch.ones(2, dtype=torch.complex64), TypeError, r"complex64.*two parameters"),
        (lambda: torch.ones(2).to_sparse(), ValueError, "to_dense"),
    ],
    ids=["complex", "sparse"],
)
def test_parameters_that_cannot_be_stepped(make, error, match):
    p = make().requires_grad_()
    with pytest.raises(error, match=match):
        ours.Adam([p])
    optimizer = ours.Adam([torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(error, match=match):
        optimizer.add_param_group({"params": [p]})
    assert len(optimizer.param_groups) == 1


def test_another_device():
    p = torch.nn.Parameter(torch.ones(3, device="meta"))
    good = torch.nn.Parameter(torch.ones(3))
    optimizer = ours.Adam([good, p])
    good.grad, p.grad = torch.ones(3), torch.ones(3, device="meta")
    with pytest.raises(ValueError, match=r"params\[1\] of group 0.*meta.*to_empty"):
        optimizer.step()
    assert good.tolist() == [1, 1, 1]


def test_what_one_update_refuses_no_other_steps():
    a, b = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizer = ours.SGD([{"params": [a], "momentum": 0.9}, {"params": [b]}], lr=0.5)
    for p in (a, b):
        p.grad = torch.ones(3)
    optimizer.step()
    kept = a.detach().clone()
    b.grad = b.detach()
    with pytest.raises(ValueError, match="shares memory"):
        optimizer.step()
    assert torch.equal(a, kept)
    b.grad = torch.ones(3)
    optimizer.param_groups[1]["lr"] = -1.0
    with pytest.raises(ValueError, match="lr"):
        optimizer.step()
    assert torch.equal(a, kept)
    assert optimizer.state[a].keys() == {"momentum_buffer"}


@pytest.mark.parametrize("name", ["SGD", "Adagrad", "Adam"])
@pytest.mark.parametrize("before", [0, 2])
def test_sparse_gradients_are_refused_and_the_remedies_work(name, before):
    model = torch.nn.Embedding(5, 3, sparse=True)
    dense = torch.nn.Parameter(torch.ones(3))
    optimizer = getattr(ours, name)([dense, *model.parameters()])
    for _ in range(before):
        dense.grad, model.weight.grad = torch.ones(3), torch.ones(5, 3)
        optimizer.step()
        optimizer.zero_grad()
    model(torch.tensor([1, 1, 3])).sum().backward()
    dense.grad = torch.ones(3)
    kept = dense.detach().clone()
    with pytest.raises(ValueError, match=r"grad\[1\]: is sparse.*to_dense.*SparseAdam"):
        optimizer.step()
    assert torch.equal(dense, kept)
    model.weight.grad = model.weight.grad.to_dense()
    old = model.weight.detach().clone()
    optimizer.step()
    assert (model.weight != old)[[1, 3]].all()


def test_a_gradient_that_is_a_negated_view():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.complex(torch.ones(3), torch.ones(3)).conj().imag
    assert p.grad.is_neg()
    optimizer = ours.SGD([p])
    with pytest.raises(ValueError, match="resolve_neg"):
        optimizer.step()
    p.grad = p.grad.resolve_neg()
    optimizer.step()
    p.grad = torch._neg_view(p.grad)  # as it lay in the step before
    with pytest.raises(ValueError, match="resolve_neg"):
        optimizer.step()


def test_memory_that_is_shared():
    def stepped(*tensors):
        params = [tensor.detach().requires_grad_() for tensor in tensors]
        for p in params:
            p.grad = torch.ones(p.shape)
        ours.SGD(params).step()

    memory = torch.ones(10)
    with pytest.raises(ValueError, match="shares memory"):
        stepped(memory[:6], memory[4:])
    p = torch.nn.Parameter(torch.ones(4))
    p.grad = p.detach()
    with pytest.raises(ValueError, match="shares memory"):
        ours.SGD([p]).step()
    with pytest.raises(ValueError, match="share memory"):
        stepped(torch.ones(1).expand(4))


def test_gradients_of_another_type(rng):
    """torch has Parameter.grad_dtype since 2.10; else they are of the parameter's."""
    p = torch.nn.Parameter(torch.tensor(numbers(rng, 9)))
    if not hasattr(p, "grad_dtype"):
        pytest.skip("this torch has no grad_dtype")
    q, grads = p.detach().clone().numpy(), [torch.tensor(numbers(rng, 9)) for _ in range(4)]
    optimizer, twin = ours.Adam([p]), optim.Adam([q], dtype="bfloat16")
    p.grad_dtype = None
    for i, grad in enumerate(grads):
        p.grad = grad.bfloat16() if i % 2 else grad.double()
        optimizer.step()
        twin.step([p.grad.view(torch.uint16).numpy() if i % 2 else p.grad.numpy()])
    assert_same_bits(p.detach().numpy(), q)


def test_an_old_torch_is_refused(monkeypatch):
    import importlib
    import sys

    monkeypatch.setattr(torch, "__version__", "2.3.1+cpu")
    monkeypatch.delitem(sys.modules, "onepass.torch")
    with pytest.raises(ImportError, match=r"torch 2\.4"):
        importlib.import_module("onepass.torch")


def parameter():
    return torch.nn.Parameter(torch.ones(2))


def made_with(name, options):
    return getattr(ours, name)([parameter()], **options)


def made_with_a_group(name, options):
    return getattr(ours, name)([{"params": [parameter()], **options}])


def given_another_group(name, options):
    optimizer = getattr(ours, name)([parameter()])
    try:
        optimizer.add_param_group({"params": [parameter()], **options})
    except (TypeError, ValueError):
        assert len(optimizer.param_groups) == 1
        optimizer.param_groups[0]["params"][0].grad = torch.ones(2)
        optimizer.step()
        raise
    return optimizer


WAYS = pytest.mark.parametrize("way", [made_with, made_with_a_group, given_another_group])
CLASSES = sorted({name for name, _ in [*CASES, *OWN]})
DEFAULTS = [
    (name, p.name, p.default)
    for name in CLASSES
    for p in inspect.signature(getattr(ours, name)).parameters.values()
    if p.name not in ("params", "own", "initial_accumulator_value")  # of the optimizer, not of a group
]
FLAGS = [(name, option) for name, option, default in DEFAULTS if isinstance(default, bool)]
CHOICES = [(name, option) for name, option, default in DEFAULTS if option in ("foreach", "fused")]
NUMBERS = [(name, option) for name, option, default in DEFAULTS if isinstance(default, float) or option == "base_lr"]
PAIRS = [(name, option) for name, option, default in DEFAULTS if isinstance(default, tuple)]


def test_each_argument_is_of_one_kind():
    known = [*FLAGS, *CHOICES, *NUMBERS, *PAIRS]
    assert sorted(known) == sorted((name, option) for name, option, _ in DEFAULTS)
    assert len(known) == len(set(known))


@WAYS
@pytest.mark.parametrize(("name", "option"), [*FLAGS, *CHOICES])
def test_what_is_neither_true_nor_false(name, option, way):
    for value in (2, -1, np.int64(3), torch.tensor(2)):
        with pytest.raises(ValueError, match=rf"^{option}: expected True or False, got .*; write {option}=True or "):
            way(name, {option: value})
    nothing = () if (name, option) in CHOICES else (None,)
    for value in ("no", "", [], 0.0, 1.0, float("nan"), *nothing):
        with pytest.raises(TypeError, match=rf"^{option}: expected True or False, got .*{type(value).__name__}"):
            way(name, {option: value})
    with pytest.raises(ValueError, match=rf"^{option}: .*a tensor of one element, got a tensor \(2,\)"):
        way(name, {option: torch.ones(2)})


@WAYS
@pytest.mark.parametrize(("name", "option"), [*FLAGS, *CHOICES])
def test_ways_to_say_false(name, option, way):
    for value in (False, 0, np.False_, torch.tensor(False), *([None] if (name, option) in CHOICES else [])):
        assert way(name, {option: value}).param_groups[-1][option] is value


@WAYS
@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_what_is_no_number(name, option, way):
    for value in ("0.1", [], (0.1,), {}, 1j, torch.tensor(1j), *([None] if option != "base_lr" else [])):
        with pytest.raises(TypeError, match=rf"^{option}: expected a number or a tensor of one element, got .*\("):
            way(name, {option: value})
    with pytest.raises(TypeError, match="convert it with float"):
        way(name, {option: "0.1"})
    with pytest.raises(TypeError, match=r"torch\.optim\.lr_scheduler"):
        way(name, {option: lambda step: 0.1})
    with pytest.raises(ValueError, match=rf"^{option}: .*a tensor of one element, got a tensor \(2,\)"):
        way(name, {option: torch.ones(2)})
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=rf"^{option}: expected a finite number"):
            way(name, {option: value})


@WAYS
@pytest.mark.parametrize(("name", "option"), NUMBERS)
def test_ways_to_give_a_number(name, option, way):
    for value in (0.5, np.float32(0.5), np.array(0.5), torch.tensor(0.5), torch.tensor([0.5])):
        optimizer = way(name, {option: value})
        assert optimizer.param_groups[-1][option] is value
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones(2)
        optimizer.step()


@WAYS
@pytest.mark.parametrize(("name", "option"), PAIRS)
def test_what_is_no_pair(name, option, way):
    for value in ((0.5,), (0.5, 1.5, 2.0), [], torch.ones(3)):
        with pytest.raises(ValueError, match=rf"^{option}: expected two numbers, got \d, .*give a tuple of two"):
            way(name, {option: value})
    for value in (0.5, "ab", b"ab", None, {0.5: 1, 1.5: 2}, {0.5, 1.5}, torch.tensor(0.5)):
        with pytest.raises(TypeError, match=rf"^{option}: expected two numbers, got .*give a tuple of two"):
            way(name, {option: value})
    for i in range(2):
        for value in ("0.5", None, [0.5], 1j):
            pair = [0.5, 0.5]
            pair[i] = value
            with pytest.raises(TypeError, match=rf"^{option}\[{i}\]: expected a number"):
                way(name, {option: tuple(pair)})


@WAYS
@pytest.mark.parametrize(("name", "option"), PAIRS)
def test_ways_to_give_a_pair(name, option, way):
    first, second = 0.5, 1.5 if option == "etas" else 0.75
    tensors = torch.tensor(first), torch.tensor(second)
    for value in ((first, second), [first, second], tensors, list(tensors), torch.stack(tensors), np.stack(tensors)):
        optimizer = way(name, {option: value})
        assert optimizer.param_groups[-1][option] is value
        for _ in range(2):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad = torch.ones(2)
            optimizer.step()


def test_nonsense_that_is_assigned_is_refused_before_a_step():
    params = [parameter(), parameter()]
    optimizer = ours.Adam([{"params": [params[0]]}, {"params": [params[1]], "amsgrad": True}])
    for p in params:
        p.grad = torch.ones(2)
    for option, value in (("maximize", 2), ("amsgrad", "no"), ("betas", (0.9,)), ("lr", "0.1")):
        before = optimizer.param_groups[1][option]
        optimizer.param_groups[1][option] = value
        with pytest.raises((TypeError, ValueError), match=f"^{option}: expected"):
            optimizer.step()
        optimizer.param_groups[1][option] = before
    assert [p.tolist() for p in params] == [[1.0, 1.0]] * 2


@pytest.mark.parametrize("value", [-1.0, float("nan"), "0.1", None, 1j, torch.ones(2)], ids=str)
def test_an_initial_accumulator_value_that_is_no_such_number(value):
    with pytest.raises((TypeError, ValueError), match=r"^initial_accumulator_value: expected"):
        ours.Adagrad([parameter()], initial_accumulator_value=value)


def test_an_initial_accumulator_value_in_a_tensor():
    p = parameter()
    optimizer = ours.Adagrad([p], initial_accumulator_value=torch.tensor(0.25))
    assert optimizer.state[p]["sum"].tolist() == [0.25, 0.25]


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize(
    ("option", "value", "error", "match"),
    [
        ("state_dtype", "int8", ValueError, r"got 'int8' \(str\); of 8 bits there is 'float8': .*blocks of 128.*scale"),
        ("state_dtype", torch.bfloat16, ValueError, r"'float32', 'bfloat16', 'float8', got torch.bfloat16 \(dtype\)"),
        ("state_dtype", None, ValueError, "'float32', 'bfloat16', 'float8', got None"),
        ("state_dtype", ["float8"], ValueError, "'float32', 'bfloat16', 'float8', got"),
        ("master_weights", True, ValueError, "expected None, 'float32' or 'split', got True"),
        ("stochastic_rounding", "no", TypeError, "expected True or False, got 'no'"),
        ("stochastic_rounding", 2, ValueError, "expected True or False, got 2"),
        ("seed", "3", TypeError, "expected an integer, got '3'"),
        ("max_norm", "1", TypeError, "expected a number or None, got '1'"),
        ("max_value", float("nan"), ValueError, "expected a positive number or None, got nan"),
        ("copies", [], TypeError, "is of onepass.optim alone"),
        ("dtype", "bfloat16", TypeError, "is of onepass.optim alone"),
        ("learning_rate", 0.1, TypeError, "is no argument of {name}; .*max_norm, max_value, state_dtype"),
    ],
)
def test_options_of_ours_that_are_nonsense(name, option, value, error, match):
    with pytest.raises(error, match=f"^{option}: .*{match.format(name=name)}"):
        getattr(ours, name)([parameter()], **{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("max_norm", 1.0), ("max_value", 1.0), ("state_dtype", "bfloat16"), ("master_weights", "float32"),
        ("stochastic_rounding", True), ("seed", 3), ("state_dtype", torch.ones(2)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", [made_with_a_group, given_another_group])
def test_options_of_the_whole_optimizer_are_refused_in_a_group(option, value, way):
    """They would be ignored there. As they were given they may stand in a group: ZeroRedundancyOptimizer does that."""
    with pytest.raises(ValueError, match=rf"^{option}: is of all parameters of an optimizer, got .*in a group"):
        way("Adam", {option: value})
    if option == "max_norm":
        way("Adam", {option: None})
    elif not isinstance(value, torch.Tensor):
        optimizer = ours.Adam([{"params": [parameter()], option: value}], **{option: value})
        for copied in (optimizer, copy.deepcopy(optimizer)):
            copied.add_param_group({"params": [parameter()], option: value})
    usual = {
        "max_value": None,
        "state_dtype": "float32",
        "master_weights": None,
        "stochastic_rounding": False,
        "seed": 0,
    }
    way("Adam", usual)
