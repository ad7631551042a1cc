"""onepass.landscape: gradient checks, Hessian-vector products, Hessians, Gauss-Newton, Taylor; against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import landscape, losses, nn
from onepass.landscape.differences import best_difference
from onepass.landscape.function import Function
from onepass.landscape.operators import as_function

linalg = pytest.importorskip("scipy.sparse.linalg")


# ---- functions whose Hessian is known: name -> (f, Hessian), for n parameters of a size


def quadratic(rng, n, size):
    a = rng.standard_normal((n, n))
    a = a + a.T
    return lambda t: (t @ a @ t / 2, a @ t), lambda t: a


def quartic(rng, n, size):
    c = rng.standard_normal(n)
    return lambda t: (float(c @ t**4), 4 * c * t**3), lambda t: np.diag(12 * c * t**2)


def waves(rng, n, size):
    """They bend over distances of theta's own size."""
    b = rng.standard_normal((n, n)) / np.sqrt(n) / size
    return lambda t: (float(np.sin(b @ t).sum()), b.T @ np.cos(b @ t)), lambda t: -b.T @ (np.sin(b @ t)[:, None] * b)


def exponential(rng, n, size):
    b = rng.standard_normal((n, n)) / n / size
    return lambda t: (float(np.exp(b @ t).sum()), b.T @ np.exp(b @ t)), lambda t: b.T @ (np.exp(b @ t)[:, None] * b)


def ill_conditioned(rng, n, size):
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    a = (q * np.logspace(-6, 6, n)) @ q.T
    return lambda t: (t @ a @ t / 2, a @ t), lambda t: a


def noisy(rng, n, size):
    """A gradient that is off by 1e-8, each time otherwise."""
    f, h = quadratic(rng, n, size)
    return lambda t: (f(t)[0], f(t)[1] + 1e-8 * rng.standard_normal(n)), h


def noisy_waves(rng, n, size):
    f, h = waves(rng, n, size)
    return lambda t: (f(t)[0], f(t)[1] + 1e-8 / size * rng.standard_normal(n)), h


SMOOTH = [quadratic, quartic, waves, exponential, ill_conditioned]
NOISY = [noisy, noisy_waves]


def rosenbrock(theta):
    x, y = theta
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2, np.array([2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)])


def rosenbrock_hessian(theta):
    x, y = theta
    return np.array([[2 - 400 * (y - 3 * x**2), -400 * x], [-400 * x, 200.0]])


# ---- Hessian-vector products


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("family", [*SMOOTH, *NOISY], ids=lambda family: family.__name__)
def test_the_true_error_of_a_product_is_within_the_estimate(family, size):
    """1 to 30 parameters, directions along an axis and across, vectors from 1e-200 to 1e150."""
    rng = np.random.default_rng(1)
    ratios, relative = [], []
    for n in (1, 2, 7, 30):
        for length in (1e-200, 1e-8, 1.0, 1e150):
            for v in (rng.standard_normal(n), np.eye(n)[n // 2]):
                f, h = family(rng, n, size)
                theta = size * rng.standard_normal(n)
                found = landscape.hessian_vector_product(f, theta, length * v)
                assert not found.exact
                true = h(theta) @ v
                off = np.linalg.norm(found.value / length - true)
                ratios.append(off / (found.error / length))
                relative.append(found.error / length / np.linalg.norm(true))
    assert max(ratios) < 3
    if family in SMOOTH:  # and the estimate is not merely large
        assert max(relative) < 3e-6
    if family is noisy:
        assert max(relative) < 1e-3 / min(size, 1.0)


def test_luck_does_not_pass_for_accuracy():
    """One parameter, noise: what two differences differ by may be small by chance."""
    rng = np.random.default_rng(0)
    f = lambda t: (float(t @ t), 2 * t + 1e-8 * rng.standard_normal(1))  # noqa: E731
    ratios = []
    for _ in range(400):
        found = landscape.hessian_vector_product(f, rng.standard_normal(1), np.ones(1))
        ratios.append(abs(found.value[0] - 2) / found.error)
    assert np.quantile(ratios, 0.99) < 3
    assert max(ratios) < 10
    assert np.median(ratios) > 0.1


def test_a_gradient_in_float32_is_noise_that_is_seen():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((20, 20))
    single = a.astype(np.float32)

    def f(theta):
        z = single @ theta.astype(np.float32)
        return float(np.cos(z).sum()), (-single.T @ np.sin(z)).astype(np.float64)

    for size in (0.1, 1.0, 3.0):
        theta, v = size * rng.standard_normal(20), rng.standard_normal(20)
        true = -a.T @ (np.cos(a @ theta) * (a @ v))
        found = landscape.hessian_vector_product(f, theta, v)
        off = np.linalg.norm(found.value - true)
        assert off < 3 * found.error
        assert 1e-6 < found.error / np.linalg.norm(true) < 1e-2


@pytest.mark.parametrize("distance", [1e-8, 6e-8, 3e-7, 1e-6, 5e-6, 1e-5, 1e-4])
def test_a_kink_beside_theta_is_stepped_around_or_admitted(distance):
    """max(x, 0)^2 / 2 + 3 max(x, 0) + y^2 just left of its kink: the second derivative by x is 0 there."""

    def f(theta):
        x, y = theta
        return max(x, 0.0) ** 2 / 2 + 3 * max(x, 0.0) + y**2, np.array([max(x, 0.0) + 3.0 * (x > 0), 2 * y])

    found = landscape.hessian_vector_product(f, np.array([-distance, 1.0]), np.array([1.0, 1.0]))
    off = np.linalg.norm(found.value - [0.0, 2.0])
    assert off <= found.error
    assert off < 1e-13 / distance + 1e-7  # rounding, at a step that is short enough


def test_a_loss_that_is_a_number_is_not_taken_for_float32():
    found = best_difference(lambda t: float(np.exp(t)) + 3 * max(t - 2e-6, 0.0), 6e-6, 1.0)
    assert abs(found.value - 1.0) <= found.error < 1e-7


def test_an_operator_steps_around_kinks_that_only_some_vectors_meet():
    """max(y_7, 0) * 3 in 200 dimensions: random vectors pass its kink by, the axis does not."""
    theta = np.ones(200)
    theta[7] = -2e-5

    def f(t):
        slope = t.copy()
        slope[7] += 3.0 * (t[7] > 0)
        return float(t @ t) / 2 + 3 * max(t[7], 0.0), slope

    operator = landscape.hessian_operator(f, theta)
    assert operator.error < 1e-8
    np.testing.assert_allclose(operator @ np.eye(200)[7], np.eye(200)[7], atol=1e-7)
    np.testing.assert_allclose(landscape.hessian(f, theta), np.eye(200), atol=1e-7)
    assert landscape.gradient_check(f, theta)


def test_a_network_of_relus_has_the_hessian_between_its_kinks():
    """1000 rows through batch normalization: the usual step crosses a kink along almost every vector."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((1000, 16)), rng.integers(0, 4, 1000)
    model = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm(32), nn.ReLU(), nn.Linear(32, 4)).astype(np.float64)
    f = landscape.from_model(model, losses.CrossEntropy(), x, y)
    layers = torch.nn.Linear(16, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(), torch.nn.Linear(32, 4)
    exact = landscape.from_torch(torch.nn.Sequential(*layers), torch.nn.functional.cross_entropy, x, y)
    crossed = 0
    for v in rng.standard_normal((12, f.theta.size)):
        true = exact.hessian_vector(f.theta, v)
        found = landscape.hessian_vector_product(f, f.theta, v)
        assert np.linalg.norm(found.value - true) < 3 * found.error
        assert found.error < 1e-6 * np.linalg.norm(true)
        step = 6e-6 * np.linalg.norm(f.theta) / np.linalg.norm(v)
        usual = (f(f.theta + step * v)[1] - f(f.theta - step * v)[1]) / (2 * step)
        crossed += np.linalg.norm(usual - true) > 1e-3 * np.linalg.norm(true)
    assert crossed >= 3
    assert landscape.gradient_check(f, f.theta)
    operator = landscape.hessian_operator(f)
    for v in rng.standard_normal((12, f.theta.size)):
        off = np.linalg.norm(operator @ v - exact.hessian_vector(f.theta, v)) / np.linalg.norm(v)
        assert off < 1e-5
    pairs = landscape.eigenpairs(f, top=2, bottom=2)
    expected = landscape.eigenpairs(exact, f.theta, top=2, bottom=2).values
    assert (np.abs(pairs.values - expected) < pairs.errors).all()
    assert pairs.errors.max() < 1e-5


def test_far_from_a_singularity_is_needed_and_found():
    """log(x) at 1e-6: the usual step would leave its domain."""

    def f(theta):
        with np.errstate(invalid="ignore"):
            return float(np.log(theta[0])) if theta[0] > 0 else np.nan, 1 / theta

    found = landscape.hessian_vector_product(f, np.array([1e-6]), np.array([2.0]))
    np.testing.assert_allclose(found.value, [-2e12], rtol=1e-4)
    assert abs(found.value[0] + 2e12) <= found.error


def test_a_product_is_in_thetas_structure_and_may_be_asked_for_flat():
    w1, w2 = np.array([[1.0, 2.0]]), np.array(3.0)

    def f(theta):
        a, b = theta
        assert (a.shape, b.shape) == ((1, 2), ())
        return float((a**2).sum() * b), [2 * a * b, np.array((a**2).sum())]

    h = np.array([[6.0, 0, 2], [0, 6, 4], [2, 4, 0]])
    found = landscape.hessian_vector_product(f, [w1, w2], [np.array([[1.0, 0.0]]), np.array(1.0)])
    assert [part.shape for part in found.value] == [(1, 2), ()]
    np.testing.assert_allclose(np.r_[found.value[0].ravel(), found.value[1]], h @ [1, 0, 1], atol=1e-8)
    flat = landscape.hessian_vector_product(f, (w1, w2), np.array([1.0, 0.0, 1.0]))
    np.testing.assert_allclose(flat.value[0], found.value[0], atol=1e-8)


def test_the_zero_vector():
    found = landscape.hessian_vector_product(rosenbrock, np.ones(2), np.zeros(2))
    assert (found.value.tolist(), found.error) == ([0.0, 0.0], 0.0)


class Exact:
    """x^4 with its own products; counts them."""

    def __init__(self):
        self.products = 0

    def __call__(self, theta):
        return float((theta**4).sum()), 4 * theta**3

    def hessian_vector(self, theta, v):
        self.products += 1
        return 12 * theta**2 * v


def test_exact_products_are_used_where_they_are_offered():
    f, theta = Exact(), np.array([1.0, 2.0])
    found = landscape.hessian_vector_product(f, theta, np.array([1.0, 1.0]))
    assert (found.exact, f.products) == (True, 1)
    np.testing.assert_allclose(found.value, [12.0, 48.0], rtol=1e-15)
    assert found.error < 1e-12
    h, error = landscape.hessian(f, theta, return_error=True)
    assert (h == np.diag([12.0, 48.0])).all()
    assert error < 1e-12
    operator = landscape.hessian_operator(f, theta)
    assert operator.exact
    assert operator.error < 1e-12


def test_products_cost_what_is_said():
    function = Function(rosenbrock, np.array([0.5, 0.5]))
    function.hessian_vector(function.x, np.array([1.0, 0.0]))
    assert function.gradient_count == 5
    function.hessian_vector(function.x, np.array([0.0, 1.0]))
    assert function.gradient_count == 9  # the one at theta is known
    operator = landscape.hessian_operator(function)
    before = function.gradient_count
    operator.matvec(np.ones(2))
    assert function.gradient_count == before + 2


# ---- dense Hessians and operators


@pytest.mark.parametrize("family", [*SMOOTH, noisy], ids=lambda family: family.__name__)
def test_dense_hessian_and_its_error(family):
    rng = np.random.default_rng(3)
    f, h = family(rng, 12, 1.0)
    theta = rng.standard_normal(12)
    found, error = landscape.hessian(f, theta, return_error=True)
    assert (found == found.T).all()
    off = np.linalg.norm(found - h(theta))
    assert off < error
    assert error < (1e-3 if family is noisy else 1e-6) * np.linalg.norm(h(theta))


def test_asymmetry_is_part_of_the_error():
    """A field that is no gradient at all: its antisymmetric part is lost, and that is said."""
    a = np.array([[1.0, 2.0], [0.0, 3.0]])
    h, error = landscape.hessian(lambda t: (t @ a @ t / 2, a @ t), np.ones(2), return_error=True)
    np.testing.assert_allclose(h, [[1.0, 1.0], [1.0, 3.0]], atol=1e-8)
    np.testing.assert_allclose(error, 2 * np.sqrt(2), rtol=1e-6)


def test_operator_agrees_with_the_dense_hessian_and_serves_scipy():
    theta = np.array([-1.2, 1.0])
    h = rosenbrock_hessian(theta)
    operator = landscape.hessian_operator(rosenbrock, theta)
    assert isinstance(operator, linalg.LinearOperator)
    assert (operator.shape, operator.dtype) == ((2, 2), np.float64)
    np.testing.assert_allclose(operator @ np.eye(2), h, rtol=1e-6)
    np.testing.assert_allclose(operator.T @ np.array([1.0, 2.0]), h @ [1.0, 2.0], rtol=1e-6)
    assert np.abs(operator @ np.eye(2) - h).max() < 3 * operator.error
    assert operator.error < 1e-5
    step, failed = linalg.minres(operator, -rosenbrock(theta)[1], rtol=1e-10)
    assert failed == 0
    np.testing.assert_allclose(step, np.linalg.solve(h, -rosenbrock(theta)[1]), rtol=1e-5)
    with pytest.raises(TypeError, match=r"v is complex128, expected real"):
        operator.matvec(np.array([1j, 0]))


def test_an_operator_is_the_same_for_the_same_seed():
    theta = np.array([0.3, 0.7])
    one, two = (landscape.hessian_operator(rosenbrock, theta, seed=5) for _ in range(2))
    assert (one @ np.ones(2)).tolist() == (two @ np.ones(2)).tolist()
    assert one.error == two.error


# ---- Gauss-Newton


def jacobian(model, x, parameters):
    """Columns by central differences with a step of their own, one parameter after another."""
    columns = []
    for array in parameters:
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + 1e-5
            up = model.forward(x).copy()
            array[index] = kept - 1e-5
            columns.append((up - model.forward(x)).ravel() / 2e-5)
            array[index] = kept
    return np.array(columns).T


def test_gauss_newton_is_the_jacobians_product():
    """Cross-entropy: the Hessian by the logits is (diag(p) - p p') / N for each row."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 3)), rng.integers(0, 3, 6)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm(4), nn.Tanh(), nn.Linear(4, 3)).astype(np.float64)
    f = landscape.from_model(model, losses.CrossEntropy(), x, y)
    j = jacobian(model, x, model.parameters())
    p = np.exp(model.forward(x))
    p /= p.sum(axis=1, keepdims=True)
    middle = np.zeros((18, 18))
    for row in range(6):
        block = slice(3 * row, 3 * row + 3)
        middle[block, block] = (np.diag(p[row]) - np.outer(p[row], p[row])) / 6
    operator = landscape.gauss_newton_operator(f, f.theta)
    found = operator @ np.eye(f.theta.size)
    np.testing.assert_allclose(found, j.T @ middle @ j, atol=1e-8)
    assert operator.error < 1e-7
    assert landscape.eigenpairs(operator).values[0] > -1e-8
    assert landscape.eigenpairs(landscape.hessian_operator(f, f.theta)).values[0] < -1e-3  # which the Hessian is not


def test_gauss_newton_is_the_hessian_of_a_linear_model():
    rng = np.random.default_rng(1)
    f = landscape.from_model(
        nn.Linear(4, 2, dtype=np.float64), losses.MeanSquaredError(), rng.standard_normal((9, 4)), rng.random((9, 2))
    )
    v = rng.standard_normal(f.theta.size)
    hv = landscape.hessian_vector_product(f, f.theta, v)
    np.testing.assert_allclose(f.gauss_newton_vector(f.theta, v), hv.value, atol=1e-8)
    np.testing.assert_allclose(f.gauss_newton_vector(f.theta, 1e-9 * v), 1e-9 * hv.value, atol=1e-17)
    assert not f.gauss_newton_vector(f.theta, 0 * v).any()


def test_gauss_newton_needs_a_function_that_has_it():
    with pytest.raises(TypeError, match=r"no gauss_newton_vector.*from_model or from_torch"):
        landscape.gauss_newton_operator(rosenbrock, np.ones(2))


# ---- gradient checks


@pytest.mark.parametrize("family", SMOOTH, ids=lambda family: family.__name__)
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_right_gradients_pass(family, size):
    rng = np.random.default_rng(2)
    f, _ = family(rng, 9, size)
    theta = size * rng.standard_normal(9)
    check = landscape.gradient_check(f, theta)
    assert check, str(check)
    assert check.max_error < 1e-5
    assert "right" in str(check)
    assert landscape.gradient_check(f, theta, directions=5)


@pytest.mark.parametrize("error", [1e-4, 1.0, np.pi])
def test_a_wrong_element_is_named(error):
    rng = np.random.default_rng(2)
    f, _ = waves(rng, 20, 1.0)
    wrong = np.zeros(20)
    wrong[13] = error
    check = landscape.gradient_check(lambda t: (f(t)[0], f(t)[1] + wrong), rng.standard_normal(20))
    assert (bool(check), check.element) == (False, 13)
    np.testing.assert_allclose(check.computed - check.numeric, error, rtol=1e-3)
    assert "element 13 is" in str(check)
    assert "1 of 20 elements are off" in str(check)


def test_one_wrong_element_among_thousands_is_found():
    wrong = np.zeros(5000)
    wrong[4321] = 0.3
    f = lambda t: (float(np.cosh(t).sum()), np.sinh(t) + wrong)  # noqa: E731
    check = landscape.gradient_check(f, np.random.default_rng(0).standard_normal(5000))
    assert (bool(check), check.element) == (False, 4321)
    assert landscape.gradient_check(lambda t: (f(t)[0], np.sinh(t)), np.ones(5000))


def test_an_error_spread_over_thousands_is_found_though_no_element_is_off_much():
    check = landscape.gradient_check(lambda t: (float(t @ t), 2.0001 * t), np.ones(3000))
    assert not check


def test_what_the_differences_cannot_tell_is_said():
    rng = np.random.default_rng(0)
    check = landscape.gradient_check(lambda t: (float(t @ t) + 1e-5 * rng.standard_normal(), 2 * t), np.ones(10))
    assert check
    assert 1e-8 < check.resolution < 1e-2
    off = 30 * check.resolution * 2
    wrong = landscape.gradient_check(lambda t: (float(t @ t) + 1e-5 * rng.standard_normal(), 2 * t + off), np.ones(10))
    assert not wrong


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"directions": 0}, ValueError, "directions is 0, expected >= 1"),
        ({"directions": 1.5}, TypeError, "directions is 1.5, expected an integer"),
        ({"directions": True}, TypeError, "directions is True, expected an integer"),
        ({"rtol": 0.0}, ValueError, "rtol is 0.0"),
        ({"rtol": float("nan")}, ValueError, "rtol is nan"),
    ],
)
def test_gradient_check_refuses(arguments, error, text):
    with pytest.raises(error, match=text):
        landscape.gradient_check(rosenbrock, np.ones(2), **arguments)


# ---- Taylor


def test_taylor_along_a_direction():
    """cosh: at x, L + t sinh(x) d + t^2 cosh(x) d^2 / 2."""
    x, d = np.array([0.5, -1.0]), np.array([2.0, 1.0])
    along = landscape.taylor(lambda t: (float(np.cosh(t).sum()), np.sinh(t)), x, d)
    assert along.steps.tolist() == np.linspace(-1, 1, 41).tolist()
    np.testing.assert_allclose(along.losses, np.cosh(x + along.steps[:, None] * d).sum(axis=1), rtol=1e-14)
    np.testing.assert_allclose(along.slope, np.sinh(x) @ d, rtol=1e-14)
    assert abs(along.curvature - np.cosh(x) @ d**2) < along.curvature_error < 1e-6
    loss = np.cosh(x).sum()
    np.testing.assert_allclose(along.first_order, loss + along.steps * along.slope, rtol=1e-14)
    second = loss + along.steps * along.slope + along.steps**2 / 2 * (np.cosh(x) @ d**2)
    np.testing.assert_allclose(along.second_order, second, rtol=1e-8)
    third = np.abs(along.losses - along.second_order) / np.maximum(np.abs(along.steps), 1e-9) ** 3
    assert third.max() < np.cosh(3.5) * 9 / 6  # the remainder is of third order


def test_taylor_draws_into_the_axes_it_is_given():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    ax = figure.add_subplot()
    along = landscape.taylor(rosenbrock, np.ones(2), np.array([1.0, 0.0]), steps=[0.0, 0.5])
    assert along.plot(ax=ax) is ax
    assert [line.get_label() for line in ax.lines] == [
        "loss", "first order: gradient", "second order: and Hessian"
    ]  # fmt: skip
    assert along.plot().get_xlabel()


def test_taylor_refuses():
    with pytest.raises(ValueError, match="direction is zero"):
        landscape.taylor(rosenbrock, np.ones(2), np.zeros(2))
    with pytest.raises(ValueError, match=r"steps is \[\], expected a sequence"):
        landscape.taylor(rosenbrock, np.ones(2), np.ones(2), steps=[])
    with pytest.raises(ValueError, match=r"steps is 'far', expected a sequence"):
        landscape.taylor(rosenbrock, np.ones(2), np.ones(2), steps="far")
    with pytest.raises(ValueError, match=r"direction has shape \(3,\), expected \(2,\)"):
        landscape.taylor(rosenbrock, np.ones(2), np.ones(3))


# ---- what a function may do, and what is refused


def test_a_function_may_keep_change_and_reuse_arrays():
    kept, gradient = [], np.empty(2)

    def f(theta):
        loss, gradient[:] = rosenbrock(theta)
        kept.append(theta)
        theta[:] = np.nan
        return loss, gradient

    theta = np.array([-1.2, 1.0])
    np.testing.assert_allclose(landscape.hessian(f, theta), rosenbrock_hessian(theta), rtol=1e-7)
    assert theta.tolist() == [-1.2, 1.0]
    assert not any(np.shares_memory(array, theta) for array in kept)


def test_theta_may_be_an_object_that_has_one():
    class Escape:
        theta = np.array([1.0, 1.0])

    np.testing.assert_allclose(landscape.hessian(rosenbrock, Escape()), rosenbrock_hessian([1, 1]), rtol=1e-7)


def test_shapes_of_a_flat_theta():
    def f(theta):
        return 0.0, np.zeros(6)

    f.shapes = [(2, 2), (2,)]
    assert as_function(f, np.zeros(6)).shapes == [(2, 2), (2,)]
    assert as_function(rosenbrock, np.zeros(2)).shapes == [(2,)]
    with pytest.raises(ValueError, match=r"f\.shapes holds 6 elements, but theta 5"):
        as_function(f, np.zeros(5))


THETAS = [
    (np.ones(2, complex), TypeError, r"theta is complex128, expected float64$"),
    (np.ones(2, np.float32), TypeError, r"theta is float32, expected float64.*theta\.astype\(numpy\.float64\)"),
    (np.ones(2, int), TypeError, "theta is int64, expected float64"),
    (np.ones((2, 1)), ValueError, r"theta has shape \(2, 1\), expected a flat vector.*\[theta\]"),
    (np.array([1.0, np.nan]), ValueError, r"theta holds nan \(element 1 of 2\), expected finite"),
    (np.array([]), ValueError, "theta is empty"),
    ([], ValueError, "theta is empty"),
    ([1.0, 2.0], TypeError, r"theta\[0\] is 1.0, expected a float64 array.*numpy\.array\(\[1\.0, 2\.0\], float\)"),
    ("theta", TypeError, "theta is 'theta', expected a float64 array"),
    (None, TypeError, "theta is missing"),
    (3.0, TypeError, "theta is 3.0, expected a float64 array"),
]


@pytest.mark.parametrize(("theta", "error", "text"), THETAS)
def test_thetas_that_are_refused(theta, error, text):
    for call in (landscape.hessian, landscape.gradient_check, landscape.hessian_operator):
        with pytest.raises(error, match=text):
            call(rosenbrock, theta)


@pytest.mark.parametrize(
    ("f", "error", "text"),
    [
        (3, TypeError, "f is 3, expected a function"),
        (lambda t: 1.0, TypeError, r"f\(theta\) returned 1.0, expected two things"),
        (lambda t: (1.0, t, t), TypeError, "expected two things"),
        (lambda t: ("low", t), TypeError, r"the loss, is 'low', expected a number"),
        (lambda t: (np.ones(2), t), TypeError, r"the loss, is array"),
        (lambda t: (1.0, [1.0, 2.0]), TypeError, r"the gradient, is \[1\.0, 2\.0\], expected a float64 array \(2,\)"),
        (lambda t: (1.0, t.astype(np.float32)), TypeError, "the gradient, is float32, expected float64; compute it"),
        (lambda t: (1.0, t[:1]), ValueError, r"the gradient, has shape \(1,\), expected \(2,\) like theta"),
        (lambda t: (np.nan, t), FloatingPointError, "the loss is nan at a theta of norm 1.414"),
        (lambda t: (1.0, t * [1.0, np.nan]), FloatingPointError, r"gradient holds nan in element 1 \(1 of 2"),
    ],
)  # fmt: skip
def test_functions_that_are_refused(f, error, text):
    with pytest.raises(error, match=text):
        landscape.hessian(f, np.ones(2))


def test_lists_that_do_not_fit():
    def f(theta):
        return 0.0, [np.zeros(2), np.zeros(1)]

    theta = [np.zeros(2), np.zeros(1)]
    with pytest.raises(ValueError, match=r"v holds 1 arrays, expected 2"):
        landscape.hessian_vector_product(f, theta, [np.zeros(2)])
    with pytest.raises(ValueError, match=r"v\[1\] has shape \(2,\), expected \(1,\)"):
        landscape.hessian_vector_product(f, theta, [np.zeros(2), np.zeros(2)])
    with pytest.raises(ValueError, match=r"array 0, has shape \(1,\), expected \(2,\)"):
        landscape.hessian(lambda t: (0.0, t[::-1]), theta)
    with pytest.raises(TypeError, match="v is a list, expected an array"):
        landscape.hessian_vector_product(rosenbrock, np.ones(2), [np.ones(2)])


def test_a_dense_hessian_of_too_many_parameters_is_refused():
    with pytest.raises(ValueError, match="theta has 10000 parameters, expected at most 8192"):
        landscape.hessian(lambda t: (0.0, t), np.zeros(10000))


def test_products_near_the_end_of_a_functions_domain():
    """-log(x) - log(1 - y) with y within 1e-7 of its end: a step that is good along x is too long along y."""
    theta = np.array([0.5, 1 - 1e-7])

    def f(t):
        if t[0] <= 0 or t[1] >= 1:
            return np.inf, np.full(2, np.inf)
        return float(-np.log(t[0]) - np.log(1 - t[1])), np.array([-1 / t[0], 1 / (1 - t[1])])

    h = np.diag([4.0, 1 / (1 - theta[1]) ** 2])
    np.testing.assert_allclose(landscape.hessian(f, theta), h, rtol=1e-4, atol=1e-3)
    operator = landscape.hessian_operator(f, theta)
    np.testing.assert_allclose(operator @ np.array([0.0, 1.0]), h[1], rtol=1e-2)


def test_seeds_are_integers():
    for call in (landscape.hessian_operator, landscape.gradient_check, landscape.eigenpairs, landscape.trace):
        with pytest.raises(ValueError, match="seed is -1, expected >= 0"):
            call(rosenbrock, np.ones(2), seed=-1)
        with pytest.raises(TypeError, match=r"seed is 1\.5, expected an integer"):
            call(rosenbrock, np.ones(2), seed=1.5)


def test_a_gradient_of_zero_is_right():
    check = landscape.gradient_check(lambda t: (float(np.cosh(t).sum()), np.sinh(t)), np.zeros(3))
    assert check
    assert "right to" in str(check)
    assert "largest derivative" in str(check)


def test_gradients_of_arrays_without_axes_may_be_numbers():
    """2 * theta[0] of an array () is a number in NumPy."""

    def f(theta):
        return float(theta[0] ** 2 + theta[1] @ theta[1]), [2 * theta[0], 2 * theta[1]]

    np.testing.assert_allclose(landscape.hessian(f, [np.array(3.0), np.ones(2)]), 2 * np.eye(3), atol=1e-8)


def test_parameters_without_effect_do_not_lead_to_steps_that_are_too_long_for_others():
    """Digits' first pixels are 0 in every row: along their weights any step is good, along the others few are."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 6)), rng.integers(0, 3, 40)
    x[:, :2] = 0.0
    first, last = nn.Linear(6, 5, dtype=np.float64), nn.Linear(5, 3, dtype=np.float64)
    f = landscape.from_model(nn.Sequential(first, nn.Tanh(), last, seed=0), losses.CrossEntropy(), x, y)
    theta = 10 * f.theta
    found, error = landscape.hessian(f, theta, return_error=True)
    columns = [landscape.hessian_vector_product(f, theta, unit).value for unit in np.eye(theta.size)]
    assert error < 1e-6 * np.linalg.norm(found)
    np.testing.assert_allclose(found, np.transpose(columns), atol=2 * error)
