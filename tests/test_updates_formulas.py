"""Rules that neither torch nor Optax has, against the paper's formula written out here; what the rules do at the edges;
the functions of one double that their constants need."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from measure import assert_same_bits, ulps

from onepass import kernels, optim, reference
from onepass._update_steps import accurate_power, exponential, logarithm, real_power

STEPS, BOUND = 50, 16


def nonzero(rng, shape, dtype):
    a = rng.normal(size=shape)
    return (a + np.copysign(0.1, a)).astype(dtype)


class PlainAdaBound:
    """Algorithms 2 and 3 of Luo et al. 2019 with the bounds of their code, element by element in float64."""

    def __init__(self, param, lr, betas, final_lr, gamma, eps, weight_decay, amsbound, decoupled_weight_decay=False):
        self.x = [float(v) for v in param]
        self.m, self.v, self.top = ([0.0] * len(self.x) for _ in range(3))
        self.base_lr = self.lr = lr
        self.betas, self.final_lr, self.gamma, self.eps = betas, final_lr, gamma, eps
        self.weight_decay, self.amsbound, self.t = weight_decay, amsbound, 0
        self.decoupled = decoupled_weight_decay

    def step(self, grad):
        self.t += 1
        b1, b2 = self.betas
        final = self.final_lr * self.lr / self.base_lr
        low = final * (1 - 1 / (self.gamma * self.t + 1))
        high = final * (1 + 1 / (self.gamma * self.t))
        alpha = self.lr * math.sqrt(1 - b2**self.t) / (1 - b1**self.t)
        for i, own in enumerate(grad):
            g = float(own) + (0.0 if self.decoupled else self.weight_decay * self.x[i])
            if self.decoupled:
                self.x[i] *= 1 - self.lr * self.weight_decay
            self.m[i] = b1 * self.m[i] + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            self.top[i] = max(self.top[i], self.v[i]) if self.amsbound else self.v[i]
            rate = min(max(alpha / (math.sqrt(self.top[i]) + self.eps), low), high)
            self.x[i] -= rate * self.m[i]


@pytest.mark.parametrize("options", [
    dict(zip(("lr", "betas", "final_lr", "gamma", "eps", "weight_decay", "amsbound"), values, strict=True))
    for values in itertools.product(
        [0.01], [(0.9, 0.999), (0.5, 0.8)], [0.1, 0.005], [1e-3, 0.5], [1e-8, 1e-2], [0.0, 0.1], [False, True]
    )
] + [{
    "lr": 0.01, "betas": (0.9, 0.999), "final_lr": 0.05, "gamma": 1e-3, "eps": 1e-8, "weight_decay": weight_decay,
    "amsbound": amsbound, "decoupled_weight_decay": True,
} for weight_decay in (0.0, 0.5) for amsbound in (False, True)
], ids=lambda o: ",".join(map(str, o.values())))  # fmt: skip
def test_adabound_is_the_papers(options, dtype, rng):
    ours = [nonzero(rng, 19, dtype)]
    optimizer, plain = optim.AdaBound(ours, **options), PlainAdaBound(ours[0], **options)
    path = np.abs(ours[0]).astype(np.float64)
    for step in range(STEPS):
        if step == 30:  # final_lr goes with it
            optimizer.param_groups[0]["lr"] = plain.lr = 0.002
        g, before = nonzero(rng, 19, dtype), np.array(plain.x)
        plain.step(g)
        optimizer.step([g])
        path += 2 * np.abs(np.array(plain.x) - before)
        assert ulps(ours[0], np.array(plain.x), path) <= BOUND


# ---- Adam's other conventions


class PlainAdam:
    """In float64: Kingma and Ba 2015 with Optax's eps_root, BERT's missing bias correction, Loshchilov and Hutter's
    weight decay; eps_hat in the words of keras.optimizers.Adam: alpha = lr sqrt(1 - beta2^t) / (1 - beta1^t),
    x -= m alpha / (sqrt(v) + eps)."""

    def __init__(self, param, lr, betas, eps, weight_decay, amsgrad, decoupled, eps_root, eps_hat, bias_correction):
        self.x = param.astype(np.float64)
        self.m, self.v, self.top = (np.zeros_like(self.x) for _ in range(3))
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.amsgrad, self.decoupled, self.eps_root, self.eps_hat = amsgrad, decoupled, eps_root, eps_hat
        self.bias_correction, self.t = bias_correction, 0

    def step(self, grad):
        self.t += 1
        b1, b2 = self.betas
        g = grad.astype(np.float64)
        if self.decoupled:
            self.x = self.x - self.lr * self.weight_decay * self.x
        else:
            g = g + self.weight_decay * self.x
        self.m += (g - self.m) * (1 - b1)
        self.v += (g * g - self.v) * (1 - b2)
        self.top = np.maximum(self.top, self.v) if self.amsgrad else self.v
        first, second = (1 - b1**self.t, 1 - b2**self.t) if self.bias_correction else (1.0, 1.0)
        if self.eps_hat:
            assert self.eps_root == 0
            alpha = self.lr * math.sqrt(second) / first
            self.x = self.x - self.m * alpha / (np.sqrt(self.top) + self.eps)
        else:
            self.x = self.x - self.lr * (self.m / first) / (np.sqrt(self.top / second + self.eps_root) + self.eps)


@pytest.mark.parametrize("options", [
    dict(zip(
        ("betas", "eps", "weight_decay", "amsgrad", "eps_root", "eps_hat", "bias_correction"), values, strict=True
    ))
    for values in itertools.product(
        [(0.9, 0.999), (0.5, 0.8)], [1e-7, 1e-2], [0.0, 0.1], [False, True], [0.0, 1e-2], [False, True], [False, True]
    )
    if not (values[4] and values[5])
], ids=lambda o: ",".join(map(str, o.values())))  # fmt: skip
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_is_the_formula_with_each_place_of_epsilon_and_without_bias_correction(name, options, dtype, rng):
    ours = [nonzero(rng, 19, dtype)]
    optimizer = getattr(optim, name)(ours, lr=0.01, **options)
    plain = PlainAdam(ours[0], lr=0.01, decoupled=name == "AdamW", **options)
    path = np.abs(ours[0]).astype(np.float64)
    for _ in range(STEPS):
        g, before = nonzero(rng, 19, dtype), plain.x
        plain.step(g)
        optimizer.step([g])
        path += 2 * np.abs(plain.x - before)
        assert ulps(ours[0], plain.x, path) <= BOUND


def test_adams_two_epsilons_before_and_behind_the_correction_go_together():
    """sqrt(v / c + eps_root) + eps / sqrt(c), written out for the first step."""
    p, c = np.zeros(1), 1 - 0.9
    optim.Adam([p], lr=1.0, betas=(0.5, 0.9), eps=0.25, eps_root=0.5, eps_hat=True).step([np.array([3.0])])
    assert -p[0] == pytest.approx(3.0 / (math.sqrt(9.0 + 0.5) + 0.25 / math.sqrt(c)), rel=1e-14)


@pytest.mark.parametrize("value", ["yes", None, 0.5])
def test_bias_correction_is_a_flag(value):
    with pytest.raises(TypeError, match="bias_correction"):
        optim.Adam([np.zeros(1)], bias_correction=value)


def test_adam_with_decoupled_weight_decay_is_adamw_for_good():
    optimizer = optim.Adam([np.zeros(1)], decoupled_weight_decay=True)
    assert optimizer.update.name == "adamw"
    optimizer.param_groups[0]["decoupled_weight_decay"] = False
    with pytest.raises(ValueError, match="decoupled_weight_decay"):
        optimizer.step([np.zeros(1)])
    with pytest.raises(ValueError, match="decoupled_weight_decay: is one for all"):
        optim.Adam([{"params": [np.zeros(1)]}, {"params": [np.zeros(1)], "decoupled_weight_decay": True}])


def test_adabounds_final_lr_belongs_to_the_first_lr_also_when_resumed(rng):
    p = [np.zeros(3)]
    optimizer = optim.AdaBound(p, lr=0.5)
    optimizer.param_groups[0]["lr"] = 0.25
    other = optim.AdaBound([np.zeros(3)], lr=0.25)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["base_lr"] == 0.5
    warm = optim.AdaBound([np.zeros(3)], lr=0.0, base_lr=0.5)
    warm.step([np.ones(3)])


# ---- NAdam: the product of momenta follows from the step and the options alone


@pytest.mark.parametrize("momentum_decay", [0.0, 4e-3, 0.2, 0.5, 40.0])
@pytest.mark.parametrize("beta1", [0.0, 0.9, 0.9999])
def test_nadam_with_a_plan_that_goes_on_gives_the_bits_of_one_that_begins(beta1, momentum_decay, dtype, rng):
    """A class keeps its plan, and with it the product of the last step; the function begins anew at every step."""
    params = [nonzero(rng, 3, dtype), nonzero(rng, 3, dtype)]
    twins = [p.copy() for p in params]
    states = [[np.zeros_like(p) for p in params] for _ in range(2)]
    optimizer = optim.NAdam(params, betas=(beta1, 0.999), momentum_decay=momentum_decay)
    steps, known = [0, 0], {"beta1": beta1, "momentum_decay": momentum_decay}
    for number in range(150):
        if number == 70:  # another product from here on
            optimizer.param_groups[0]["momentum_decay"] = known["momentum_decay"] = 0.03
        if number == 90:  # and back, to a product of a step long ago
            optimizer.param_groups[0]["momentum_decay"] = known["momentum_decay"] = momentum_decay
        if number == 110:  # an older state
            saved = optimizer.state_dict()
            for i, entry in saved["state"].items():
                entry["step"] = steps[i] = 5 + i
            optimizer.load_state_dict(saved)
        grads = [nonzero(rng, 3, dtype) if (number + i) % (2 + i) else None for i in range(2)]
        optimizer.step(grads)
        for i, g in enumerate(grads):
            if g is not None:
                steps[i] += 1
                kernels.nadam(twins[i], g, states[0][i], states[1][i], step=steps[i], **known)
                assert_same_bits(params[i], twins[i], f"step {steps[i]}")


@pytest.mark.parametrize(("beta1", "momentum_decay"), [(0.9, 4e-3), (0.999999, 0.4), (0.999999999, 30.0), (0.5, 0.0)])
@pytest.mark.parametrize("step", [1, 2, 30, 1000, 12345])
def test_nadams_weights_are_those_of_the_plain_product(beta1, momentum_decay, step):
    mu = [beta1 * (1 - 0.5 * 0.96 ** (t * momentum_decay)) for t in range(1, step + 2)]
    product = math.prod(mu[:-1])
    g, m, v = 2.0, 3.0, 4.0
    p, exp_avg, exp_avg_sq = np.zeros(1), np.array([m]), np.array([v])
    kernels.nadam(p, np.array([g]), exp_avg, exp_avg_sq, step=step, lr=1.0, beta1=beta1, momentum_decay=momentum_decay)
    direction = (1 - mu[-2]) * g / (1 - product) + mu[-1] * exp_avg[0] / (1 - product * mu[-1])
    assert -p[0] == pytest.approx(direction / (math.sqrt(exp_avg_sq[0] / (1 - 0.999**step)) + 1e-8), rel=1e-9)


# ---- signs


@pytest.mark.parametrize("rule", ["lion", "signum", "rprop"])
def test_a_step_of_signs_leaves_what_has_no_gradient_and_shows_a_nan(rule, dtype):
    tiny = float(np.finfo(dtype).tiny)
    g = np.array([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-3, -1e-3, tiny / 4], dtype)
    p = np.ones(8, dtype)
    states = [np.zeros(8, dtype) for _ in kernels.UPDATES[rule].states]
    getattr(kernels, rule)(p, g, *states, step=1, lr=0.25)
    np.testing.assert_array_equal(p, np.array([1, 1, np.nan, 0.75, 1.25, 0.75, 1.25, 1], dtype))


def test_rprop_sees_that_tiny_gradients_agree():
    """Their product would vanish, and the step sizes would never grow."""
    p = [np.zeros(2, np.float32)]
    optimizer = optim.Rprop(p, lr=1.0)
    for g in (1e-30, 1e-30, -1e-30):
        optimizer.step([np.array([g, -g], np.float32)])
    np.testing.assert_allclose(optimizer.state_dict()["state"][0]["step_size"], 0.6, rtol=1e-6)


# ---- functions of one double


def test_exponential_and_logarithm_are_within_two_units_in_the_last_place():
    draw = random.Random(0)
    for _ in range(20_000):
        x = draw.choice([draw.uniform(-708, 709), draw.gauss(0, 1), draw.gauss(0, 1e-5)])
        assert abs(exponential(x) - math.exp(x)) <= 2 * math.ulp(math.exp(x)), x
        y = math.exp(draw.choice([draw.uniform(-700, 700), draw.gauss(0, 0.1)]))
        assert abs(logarithm(y) - math.log(y)) <= 2 * math.ulp(math.log(y)), y


def test_exponential_and_logarithm_at_the_edges():
    assert [exponential(x) for x in (0.0, -0.0, -1000.0, -math.inf, 1000.0, math.inf)] == [
        1, 1, 0, 0, math.inf, math.inf,
    ]  # fmt: skip
    assert math.isnan(exponential(math.nan))
    assert (logarithm(1.0), logarithm(math.inf)) == (0.0, math.inf)
    assert all(math.isnan(logarithm(x)) for x in (0.0, -1.0, -math.inf, math.nan, 1e-310))
    assert real_power(1.0, 1e9) == 1.0


def test_accurate_power_is_rounded_once():
    draw = random.Random(3)
    for _ in range(3000):
        base, exponent = 1 - 10 ** draw.uniform(-9, -0.1), draw.randint(1, 10 ** draw.randint(1, 4))
        exact = Fraction(base) ** exponent if exponent < 200 else None
        found = accurate_power(base, exponent)
        assert abs(found - base**exponent) <= math.ulp(found)
        if exact is not None:
            assert abs(Fraction(found) - exact) <= Fraction(math.ulp(found)) * Fraction(501, 1000)


def test_radams_rectification_has_the_kernels_bits():
    draw = random.Random(4)
    for _ in range(1000):
        beta2, step, found = 1 - 10 ** draw.uniform(-9, -0.05), draw.randint(1, 10 ** draw.randint(1, 9)), []
        for module in (kernels, reference):
            p = np.zeros(2)
            module.radam(p, np.ones(2), np.ones(2), np.ones(2), step=step, lr=1.0, beta2=beta2)
            found.append(p)
        assert_same_bits(*found, f"{beta2=} {step=}")


def test_a_real_power_has_the_kernels_bits(rng):
    """ASGD's first step from 0 against a gradient of -1 is its eta, lr / (1 + lambd lr (step - 1))^alpha."""
    draw = random.Random(1)
    for _ in range(3000):
        lambd, alpha = 10 ** draw.uniform(-8, 8), draw.choice([draw.uniform(0, 2), draw.uniform(0, 40), -3.0])
        lr, step = 10 ** draw.uniform(-4, 2), draw.randint(1, 10 ** draw.randint(1, 15))
        if draw.random() < 0.05:
            lambd = draw.choice([-lambd, 0.0, 1e308])
        found = []
        for module in (kernels, reference):
            p = np.zeros(1)
            module.asgd(p, -np.ones(1), np.zeros(1), step=step, lr=lr, lambd=lambd, alpha=alpha)
            found.append(p)
        assert_same_bits(*found, f"{lr=} {lambd=} {alpha=} {step=}")
        base = 1 + lambd * lr * (step - 1)
        if base > 0 and abs(alpha * math.log(base)) < 300:
            near = 1e-15 * (2 + abs(alpha * math.log(base)))
            assert found[0][0] == pytest.approx(lr / base**alpha, rel=near)


def test_nadams_weights_have_the_kernels_bits():
    draw = random.Random(2)
    for _ in range(500):
        hyper = {"beta1": draw.choice([0.0, 0.5, 0.9, 1 - 10 ** draw.uniform(-12, -1)]), "lr": 1.0}
        hyper["momentum_decay"] = draw.choice([0.0, 10 ** draw.uniform(-6, 4)])
        step, found = draw.randint(1, 10 ** draw.randint(1, 9)), []
        for module in (kernels, reference):
            p = np.zeros(4)
            module.nadam(p, np.arange(4.0), np.ones(4), np.ones(4), step=step, **hyper)
            found.append(p)
        assert_same_bits(*found, f"{hyper} {step=}")
