"""The estimators against scikit-learn's own ones, and scikit-learn's checks of any estimator."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import threading
import unittest
import warnings
import weakref

import numpy as np
import pandas
import pytest
import sklearn.neural_network as truth
from scipy import sparse
from sklearn import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV, cross_val_score, learning_curve, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import onepass
from onepass import schedules
from onepass.sklearn import MLPClassifier, MLPRegressor, _estimator
from onepass.sklearn._solvers import SOLVERS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(110, 5))
LINEAR = X @ RNG.normal(size=(5, 3)) + 0.3 * RNG.normal(size=(110, 3))
TARGETS = {
    "binary": np.where(LINEAR[:, 0] > 0, "yes", "no"),
    "multiclass": LINEAR.argmax(axis=1) + 5,
    "multilabel": (LINEAR > 0).astype(int),
    "one output": LINEAR[:, 0],
    "three outputs": LINEAR,
}
WEIGHTS = RNG.integers(0, 4, 110)


def kinds(target):
    """scikit-learn's class and ours."""
    regression = "output" in target
    return (truth.MLPRegressor, MLPRegressor) if regression else (truth.MLPClassifier, MLPClassifier)


def bits(model):
    return [array.tobytes() for array in model.coefs_ + model.intercepts_]


# ---- scikit-learn's checks of any estimator

NO_VALIDATION_IN_PARTIAL_FIT = "calls partial_fit, which has no validation rows, as in scikit-learn's MLPClassifier"
EXPECTED_FAILURES = {
    "early stopping": {
        "check_fit_score_takes_y": NO_VALIDATION_IN_PARTIAL_FIT,
        "check_n_features_in_after_fitting": NO_VALIDATION_IN_PARTIAL_FIT,
        "check_estimators_partial_fit_n_features": NO_VALIDATION_IN_PARTIAL_FIT,
        "check_sample_weight_equivalence_on_dense_data": "other rows are held out where rows are repeated",
        "check_class_weight_classifiers": "ten held-out rows have nearly all weight: their score soon rises no more",
    },
    "batch norm": {
        "check_sample_weight_equivalence_on_dense_data": "the statistics of a batch are of its rows, without weights",
    },
}
NOT_FOR_THESE = [  # what a check says that finds nothing to check
    "SCIPY_ARRAY_API is not set",  # for arrays of other libraries than NumPy
    "does not have a decision_function",  # nor has scikit-learn's MLPClassifier
]
SETTINGS = [
    MLPClassifier(),
    MLPRegressor(),
    MLPClassifier((20, 10), "tanh", solver="sgd", learning_rate_init=0.1, learning_rate="adaptive", batch_size=1000),
    MLPRegressor((), solver="nadam", learning_rate_init=0.01, shuffle=False),
    MLPClassifier(early_stopping=True, validation_fraction=0.4),
    MLPClassifier(batch_norm=True, dropout=0.1),
]


def expected_failures(estimator):
    chosen = "batch norm" if estimator.batch_norm else "early stopping" if estimator.early_stopping else None
    return EXPECTED_FAILURES.get(chosen, {})


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(SETTINGS, expected_failed_checks=expected_failures)
def test_scikit_learns_checks(estimator, check):
    try:
        check(estimator)
    except unittest.SkipTest as reason:
        assert [known for known in NOT_FOR_THESE if known in str(reason)], reason  # noqa: PT017


# ---- the same steps as scikit-learn's

SAME = [
    {},
    {"alpha": 0.0, "batch_size": 110},
    {"alpha": 2.0, "batch_size": 32},
    {"alpha": 2.0, "batch_size": 32, "shuffle": False, "activation": "tanh"},
    {"hidden_layer_sizes": (12, 7), "activation": "logistic", "batch_size": 16, "beta_1": 0.5, "epsilon": 1e-3},
    {"hidden_layer_sizes": (), "batch_size": 50},
    {"activation": "identity", "hidden_layer_sizes": 4},
    {"solver": "sgd", "learning_rate_init": 0.05, "alpha": 0.1, "batch_size": 20},
    {"solver": "sgd", "learning_rate_init": 0.02, "nesterovs_momentum": False, "momentum": 0.8},
    {"solver": "sgd", "learning_rate_init": 0.05, "momentum": 0.0, "batch_size": 20},
    {"solver": "sgd", "learning_rate_init": 0.2, "learning_rate": "invscaling", "power_t": 0.3, "batch_size": 25},
    {"solver": "sgd", "learning_rate_init": 0.1, "learning_rate": "adaptive", "tol": 0.3, "n_iter_no_change": 1},
    {"early_stopping": True, "validation_fraction": 0.3, "tol": 0.01, "n_iter_no_change": 2, "max_iter": 40},
    {"tol": 0.02, "n_iter_no_change": 2, "max_iter": 60},
    {"solver": "adam", "learning_rate": "adaptive", "tol": 0.1, "n_iter_no_change": 1, "max_iter": 40},
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("settings", SAME, ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()) or "defaults")
def test_the_same_run_as_scikit_learns(target, settings):
    """From the same random_state: weights, loss curve, validation scores and the end of the training."""
    theirs, ours = [
        kind(**{"max_iter": 8, "learning_rate_init": 0.01, "random_state": 3, **settings}) for kind in kinds(target)
    ]
    y = TARGETS[target]
    theirs.fit(X, y)
    ours.fit(X, y)
    assert ours.n_iter_ == theirs.n_iter_
    assert (ours.t_, ours.n_layers_, ours.n_outputs_) == (theirs.t_, theirs.n_layers_, theirs.n_outputs_)
    assert ours.out_activation_ == theirs.out_activation_
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    for name in ("coefs_", "intercepts_"):
        for mine, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            assert mine.shape == other.shape
            np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-9)
    for name in ("loss_", "best_loss_", "best_validation_score_"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        assert (mine is None and other is None) or mine == pytest.approx(other, rel=1e-9)
    assert (ours.validation_scores_ is None) == (theirs.validation_scores_ is None)
    if ours.validation_scores_ is not None:
        np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=1e-9)
    if settings.get("solver") == "sgd":
        assert ours._network.optimizer.param_groups[0]["lr"] == pytest.approx(theirs._optimizer.learning_rate)
    if "output" in target:
        np.testing.assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6, atol=1e-9)
    else:
        assert np.array_equal(ours.predict(X), theirs.predict(X))
        np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(ours.predict_log_proba(X), theirs.predict_log_proba(X), rtol=1e-6, atol=1e-8)
    assert ours.score(X, y, WEIGHTS) == pytest.approx(theirs.score(X, y, WEIGHTS), rel=1e-9)


def test_the_settings_reach_what_they_are_for():
    """Runs above end early, and lower the rate."""
    early = MLPClassifier(max_iter=60, tol=0.02, n_iter_no_change=2, learning_rate_init=0.01, random_state=3)
    assert early.fit(X, TARGETS["multiclass"]).n_iter_ < 60
    adaptive = MLPClassifier(
        solver="sgd", learning_rate="adaptive", learning_rate_init=0.1, tol=0.3, n_iter_no_change=1, random_state=3
    )
    adaptive.set_params(max_iter=8).fit(X, TARGETS["multiclass"])
    assert adaptive._network.optimizer.param_groups[0]["lr"] < 0.1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch_size", [110, 40])
def test_weighted_rows_as_scikit_learns(target, batch_size):
    weights = WEIGHTS + 0.5  # scikit-learn keeps rows of weight 0 in the batches
    settings = {"batch_size": batch_size, "alpha": 0.5, "max_iter": 6, "random_state": 0, "learning_rate_init": 0.01}
    theirs, ours = [kind(**settings).fit(X, TARGETS[target], sample_weight=weights) for kind in kinds(target)]
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    for mine, other in zip(ours.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("target", ["multiclass", "three outputs"])
def test_partial_fit_as_scikit_learns(target):
    models = [kind(batch_size=30, random_state=1) for kind in kinds(target)]
    more = {} if "output" in target else {"classes": [5, 6, 7]}
    for part in (slice(0, 60), slice(60, 110), slice(0, 90)):
        for model in models:
            model.partial_fit(X[part], TARGETS[target][part], **more)
    theirs, ours = models
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    assert (ours.n_iter_, ours.t_) == (theirs.n_iter_, theirs.t_) == (1, 200)
    np.testing.assert_allclose(ours.coefs_[0], theirs.coefs_[0], rtol=1e-6, atol=1e-9)


def test_float32_as_scikit_learns():
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    theirs, ours = [kind(max_iter=10, random_state=0).fit(x, y) for kind in (truth.MLPClassifier, MLPClassifier)]
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-4)
    assert ours.coefs_[0].dtype == ours.predict_proba(x).dtype == np.float32


def test_one_step_from_copied_weights():
    """A plain step of rate 1 from weights that were written into ``coefs_``: the difference is the gradient."""
    y = TARGETS["multiclass"]
    settings = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 1.0, "alpha": 3.0, "shuffle": False}
    theirs = truth.MLPClassifier((9,), **settings, random_state=5, warm_start=True, max_iter=1).fit(X, y)
    ours = MLPClassifier((9,), **settings, random_state=6, warm_start=True, max_iter=1).fit(X, y)
    for name in ("coefs_", "intercepts_"):
        for mine, other in zip(getattr(ours, name), getattr(theirs, name), strict=True):
            mine[...] = other
    before = [weights.copy() for weights in theirs.coefs_]
    theirs.fit(X, y)
    ours.fit(X, y)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=1e-12)
    for mine, other, start in zip(ours.coefs_, theirs.coefs_, before, strict=True):
        np.testing.assert_allclose(mine - start, other - start, rtol=1e-9, atol=1e-12)
        assert abs(mine - start).max() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"learning_rate": "adaptive", "solver": "sgd"}])
def test_verbose_prints_what_scikit_learn_prints(settings, capsys):
    printed = []
    for kind in (truth.MLPClassifier, MLPClassifier):
        settings = {"max_iter": 9, "tol": 0.5, "n_iter_no_change": 1, "random_state": 0, "verbose": True, **settings}
        kind(**settings).fit(X, TARGETS["binary"])
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) >= 4
        printed.append([line for line in lines if not line.startswith(("Training", "Validation score did"))])
    assert printed[0] == printed[1]


def test_digits_are_learned_as_well_as_by_scikit_learn():
    x, y = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(x / 16, y, random_state=0)
    theirs, ours = [kind(max_iter=60, random_state=0).fit(x, y) for kind in (truth.MLPClassifier, MLPClassifier)]
    assert ours.score(x_test, y_test) > 0.96
    assert ours.score(x_test, y_test) == pytest.approx(theirs.score(x_test, y_test), abs=0.005)


# ---- weights

FULL_BATCH = {"batch_size": 10**6, "alpha": 0.5, "max_iter": 30, "random_state": 0, "learning_rate_init": 0.01}


@pytest.mark.parametrize("solver", ["adam", "sgd", "lion", "lamb"])
@pytest.mark.parametrize("target", TARGETS)
def test_an_integer_weight_is_a_repetition(target, solver):
    """In one batch of all rows; and weight 0 is a row that is not there."""
    _, kind = kinds(target)
    y = TARGETS[target]
    weighted = kind(**FULL_BATCH, solver=solver).fit(X, y, sample_weight=WEIGHTS)
    repeated = kind(**FULL_BATCH, solver=solver).fit(X.repeat(WEIGHTS, axis=0), y.repeat(WEIGHTS, axis=0))
    np.testing.assert_allclose(weighted.loss_curve_, repeated.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(weighted.coefs_[0], repeated.coefs_[0], rtol=1e-6, atol=1e-9)
    unweighted = kind(**FULL_BATCH, solver=solver).fit(X, y)
    assert abs(weighted.coefs_[0] - unweighted.coefs_[0]).max() > 1e-3


def test_mini_batches_of_weighted_rows_are_others_than_those_of_repeated_ones():
    """Documented: the batches are of other rows."""
    models = [MLPClassifier(batch_size=20, max_iter=5, random_state=0) for _ in range(2)]
    models[0].fit(X, TARGETS["binary"], sample_weight=WEIGHTS)
    models[1].fit(X.repeat(WEIGHTS, axis=0), TARGETS["binary"].repeat(WEIGHTS))
    assert abs(models[0].coefs_[0] - models[1].coefs_[0]).max() > 1e-4


@pytest.mark.parametrize("target", TARGETS)
def test_weights_of_one_and_zero_change_no_bit(target):
    _, kind = kinds(target)
    settings = {"batch_size": 16, "max_iter": 3, "random_state": 0}
    y, kept = TARGETS[target], WEIGHTS > 0
    plain = kind(**settings).fit(X, y)
    assert bits(kind(**settings).fit(X, y, sample_weight=np.ones(110))) == bits(plain)
    assert bits(kind(**settings).fit(X, y, sample_weight=1.0)) == bits(plain)
    left_out = kind(**settings).fit(X, y, sample_weight=kept.astype(int).tolist())
    assert bits(left_out) == bits(kind(**settings).fit(X[kept], y[kept]))


def test_weights_in_score_and_in_the_validation_score():
    y = TARGETS["multiclass"]
    model = MLPClassifier(max_iter=3, random_state=0).fit(X, y)
    right = model.predict(X) == y
    assert model.score(X, y, sample_weight=WEIGHTS) == pytest.approx(np.average(right, weights=WEIGHTS))
    weights = WEIGHTS + 0.5
    settings = {"early_stopping": True, "validation_fraction": 0.4, "max_iter": 5, "random_state": 0}
    theirs, ours = [kind(**settings).fit(X, y, weights) for kind in (truth.MLPClassifier, MLPClassifier)]
    np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_)


def test_class_weights_are_weights_of_their_rows():
    y = TARGETS["multiclass"]
    by_class = MLPClassifier(**FULL_BATCH, class_weight={5: 3, 7: 2}).fit(X, y)
    repeats = np.select([y == 5, y == 7], [3, 2], 1)
    repeated = MLPClassifier(**FULL_BATCH).fit(X.repeat(repeats, axis=0), y.repeat(repeats))
    np.testing.assert_allclose(by_class.coefs_[0], repeated.coefs_[0], rtol=1e-6, atol=1e-9)
    mini = {"batch_size": 16, "max_iter": 3, "random_state": 0}
    assert bits(MLPClassifier(**mini, class_weight={5: 3, 7: 2}).fit(X, y)) == bits(
        MLPClassifier(**mini).fit(X, y, sample_weight=repeats)
    )


@pytest.mark.parametrize("target", ["binary", "multiclass"])
def test_balanced_classes(target):
    y = TARGETS[target]
    labels, counts = np.unique(y, return_counts=True)
    factors = dict(zip(labels, len(y) / (len(labels) * counts), strict=True))
    named = MLPClassifier(**FULL_BATCH, class_weight=factors).fit(X, y)
    assert bits(MLPClassifier(**FULL_BATCH, class_weight="balanced").fit(X, y)) == bits(named)
    weighted = MLPClassifier(**FULL_BATCH, class_weight="balanced").fit(X, y, sample_weight=WEIGHTS)
    repeated = MLPClassifier(**FULL_BATCH, class_weight="balanced")
    repeated.fit(X.repeat(WEIGHTS, axis=0), y.repeat(WEIGHTS))
    np.testing.assert_allclose(weighted.coefs_[0], repeated.coefs_[0], rtol=1e-6, atol=1e-9)


# ---- runs that go on, are repeated, saved


@pytest.mark.parametrize("target", TARGETS)
def test_partial_fit_of_all_rows_is_an_epoch_of_fit(target):
    _, kind = kinds(target)
    settings = {"batch_size": 16, "shuffle": False, "random_state": 0, "solver": "sgd", "learning_rate": "invscaling"}
    whole = kind(**settings, max_iter=5).fit(X, TARGETS[target])
    parts = kind(**settings)
    for _ in range(5):
        parts.partial_fit(X, TARGETS[target], **({} if "output" in target else {"classes": whole.classes_}))
    assert bits(parts) == bits(whole)
    assert parts.loss_curve_ == whole.loss_curve_
    assert parts.t_ == whole.t_ == 550


STATEFUL = {"batch_norm": True, "dropout": 0.2, "batch_size": 16, "random_state": 0, "max_iter": 3}


@pytest.mark.parametrize("copied", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("more", [{}, {"solver_options": {"state_dtype": "float8"}}, {"early_stopping": True}])
def test_a_copy_goes_on_as_the_original(copied, more):
    """Parameters, running statistics, masks of dropout and the optimizer's state."""
    x = X.astype(np.float32)
    model = MLPClassifier(**STATEFUL, **more).fit(x, TARGETS["multiclass"])
    other = copied(model)
    assert bits(other) == bits(model)
    assert other.predict_proba(x).tobytes() == model.predict_proba(x).tobytes()
    for one in (model, other):
        one.set_params(early_stopping=False).partial_fit(x, TARGETS["multiclass"])
    assert bits(other) == bits(model)
    assert other.loss_curve_ == model.loss_curve_


def test_a_pickle_holds_no_data():
    x = np.random.default_rng(0).normal(size=(5000, 20))
    model = MLPRegressor((4,), shuffle=False, batch_size=5000, max_iter=2).fit(x, x[:, 0])
    assert len(pickle.dumps(model)) < 20_000


@pytest.mark.parametrize("random_state", [0, np.random.RandomState(0)])
def test_the_same_bits_again_and_at_any_number_of_threads(random_state):
    settings = {**STATEFUL, "random_state": random_state, "batch_size": 64, "hidden_layer_sizes": (256,)}
    x = np.tile(X, (4, 30))
    y = np.tile(TARGETS["multiclass"], 4)
    first = MLPClassifier(**copy.deepcopy(settings)).fit(x, y)
    before = onepass.get_threads()
    onepass.set_threads(1)
    try:
        again = clone(MLPClassifier(**copy.deepcopy(settings))).fit(x, y)
    finally:
        onepass.set_threads(before)
    assert bits(again) == bits(first)
    assert bits(MLPClassifier(**{**settings, "random_state": 1}).fit(x, y)) != bits(first)


def test_warm_start():
    settings = {"batch_size": 16, "random_state": 0, "max_iter": 4, "learning_rate_init": 0.01}
    theirs, ours = [kind(**settings, warm_start=True) for kind in (truth.MLPClassifier, MLPClassifier)]
    for model in (theirs, ours, theirs, ours):
        model.fit(X, TARGETS["binary"])
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    assert len(ours.loss_curve_) == 8
    assert ours.n_iter_ == 4
    with pytest.raises(ValueError, match=r"units=\(5, 100, 1\).*now ask for .*units=\(5, 7, 1\).*warm_start=False"):
        ours.set_params(hidden_layer_sizes=7).fit(X, TARGETS["binary"])
    ours.set_params(hidden_layer_sizes=100)
    with pytest.raises(ValueError, match=r"y has 'maybe', which is no class; classes are \['no', 'yes'\]"):
        ours.fit(X, np.where(LINEAR[:, 1] > 0, "yes", "maybe"))
    ours.set_params(warm_start=False).fit(X, TARGETS["multiclass"])
    assert ours.classes_.tolist() == [5, 6, 7]


def test_early_stopping_restores_the_best():
    noisy = np.random.default_rng(11).permutation(TARGETS["multiclass"])  # nothing to learn
    model = MLPClassifier(
        early_stopping=True, validation_fraction=0.4, learning_rate_init=0.02, batch_norm=True, random_state=0
    ).fit(X, noisy)
    scores = model.validation_scores_
    best = int(np.argmax(scores))
    assert best < model.n_iter_ - 1 == len(scores) - 1 < 199
    assert model.best_validation_score_ == scores[best] > scores[-1]
    shorter = clone(model).set_params(max_iter=best + 1).fit(X, noisy)
    assert bits(shorter) == bits(model)
    assert shorter.predict_proba(X).tobytes() == model.predict_proba(X).tobytes()  # running statistics too


def test_an_interrupted_fit_warns_and_keeps_what_it_has():
    def rate(step):
        if step == 20:
            raise KeyboardInterrupt
        return 0.01

    model = MLPClassifier(batch_size=16, learning_rate=rate, random_state=0)
    with pytest.warns(UserWarning, match="interrupted"):
        model.fit(X, TARGETS["binary"])
    assert model.n_iter_ == 2
    assert model.score(X, TARGETS["binary"]) > 0.5


def test_no_convergence_is_warned_of():
    with pytest.warns(ConvergenceWarning, match="max_iter=2"):
        MLPClassifier(max_iter=2).fit(X, TARGETS["binary"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLPClassifier(max_iter=2, n_iter_no_change=np.inf).fit(X, TARGETS["binary"])
        MLPClassifier(tol=10.0, n_iter_no_change=1).fit(X, TARGETS["binary"])
        MLPClassifier(max_iter=2).partial_fit(X, TARGETS["binary"], classes=["no", "yes"])


def test_a_failed_training_says_what_helps():
    with pytest.raises(ValueError, match=r"the loss is .* in epoch .*lower learning_rate_init, or scale X and y"):
        MLPRegressor(solver="sgd", learning_rate_init=1e6).fit(X, 1e6 * LINEAR)
    with pytest.raises(ValueError, match=r"y holds NaN or inf in row 0: repair"):
        MLPRegressor(shuffle=False).fit(X.astype(np.float32), np.full(110, 1e300))


def test_a_failed_training_with_weights_says_what_helps():
    model = MLPRegressor((8,), solver="sgd", learning_rate_init=1e6, max_iter=20, random_state=0)
    with pytest.raises(ValueError, match=r"the loss is .* in epoch .*lower learning_rate_init, or scale X and y"):
        model.fit(X, 1e6 * LINEAR, sample_weight=np.arange(110.0) + 1)
    model = MLPClassifier(max_iter=2, class_weight={"no": 1e300, "yes": 1.0}, batch_size=10)
    overflows = pytest.raises(ValueError, match=r"the loss is nan .*; weight holds NaN or inf in row \d+: repair")
    with overflows, np.errstate(over="ignore", invalid="ignore"):
        model.fit(X, TARGETS["binary"], sample_weight=np.full(110, 1e300))


@pytest.mark.parametrize("weighted", ["none", "some 0", "other"])
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_row_that_is_named_is_the_callers(weighted, early_stopping, shuffle):
    """Not that of the rows that are left without weights of 0 and without those of the validation."""
    weights = {"none": None, "some 0": (np.arange(110) % 3 != 0) * 1.0, "other": (np.arange(110) % 3) * 0.7}[weighted]
    y = LINEAR.copy()
    y[58] = 1e300  # infinite in float32
    for seed in (0, 1, 2):  # none of them holds out row 58
        model = MLPRegressor((4,), early_stopping=early_stopping, shuffle=shuffle, batch_size=7, random_state=seed)
        with pytest.raises(ValueError, match="y holds NaN or inf in row 58: repair"):
            model.fit(X.astype(np.float32), y, sample_weight=weights)


# ---- what this package adds


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_optimizer_is_a_solver(solver):
    rate = {"adadelta": 1.0, "asgd": 0.1, "lars": 5.0, "lion": 1e-3, "adabound": 1e-2}.get(solver, 0.01)
    model = MLPClassifier((16,), solver=solver, learning_rate_init=rate, batch_size=110, max_iter=40, random_state=0)
    model.fit(X, TARGETS["multiclass"])
    assert model.loss_curve_[-1] < 0.9 * model.loss_curve_[0]


def test_solver_options_reach_the_optimizer():
    options = {"weight_decay": 0.3, "max_norm": 0.5, "eps": 1e-3}
    model = MLPClassifier(solver="adamw", max_iter=1, beta_1=0.7, solver_options=options).fit(X, TARGETS["binary"])
    (group,) = model._network.optimizer.param_groups
    assert (group["weight_decay"], group["eps"], group["betas"]) == (0.3, 1e-3, (0.7, 0.999))
    assert model._network.optimizer.max_norm == 0.5


def test_a_schedule_goes_on_over_calls_of_partial_fit():
    rate = schedules.cosine(0.05, steps=28)  # 7 batches, 4 epochs
    settings = {"batch_size": 16, "shuffle": False, "random_state": 0, "learning_rate": rate}
    whole = MLPRegressor(**settings, max_iter=4).fit(X, TARGETS["one output"])
    parts = MLPRegressor(**settings)
    for _ in range(4):
        parts.partial_fit(X, TARGETS["one output"])
    assert bits(parts) == bits(whole)
    constant = MLPRegressor(**{**settings, "learning_rate": "constant"}, max_iter=4)
    assert bits(constant.fit(X, TARGETS["one output"])) != bits(whole)


@pytest.mark.parametrize("activation", ["leaky_relu", "gelu", "silu", "relu", "tanh"])
@pytest.mark.parametrize("target", TARGETS)
def test_batch_normalization_and_dropout(target, activation):
    _, kind = kinds(target)
    model = kind(
        (32, 16), activation, batch_norm=True, dropout=0.1, learning_rate_init=0.02, batch_size=50, random_state=0
    )
    model.fit(X, TARGETS[target])
    assert model.score(X, TARGETS[target]) > 0.8
    assert np.array_equal(model.predict(X), model.predict(X))
    np.testing.assert_allclose(model.predict(X[:1]), model.predict(X)[:1]) if "output" in target else None


def test_a_last_batch_of_one_row_is_left_out_with_batch_normalization():
    model = MLPRegressor(batch_norm=True, batch_size=27, max_iter=2).fit(X[:82], LINEAR[:82])
    assert model.t_ == 2 * 81
    assert MLPRegressor(batch_size=27, max_iter=2).fit(X[:82], LINEAR[:82]).t_ == 2 * 82
    with pytest.raises(ValueError, match="a batch has 1 sample"):
        MLPRegressor(batch_norm=True, batch_size=1).fit(X, LINEAR)


def test_threads_may_predict_with_one_model():
    model = MLPRegressor(max_iter=2, random_state=0).fit(X, LINEAR)
    x = np.random.default_rng(2).normal(size=(8, 3000, 5))
    expected = [model.predict(part) for part in x]
    wrong = []

    def work(index):
        wrong.extend(index for _ in range(20) if not np.array_equal(model.predict(x[index]), expected[index]))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_log_probabilities_of_what_is_nearly_sure():
    model = MLPClassifier((), max_iter=1).fit(X, TARGETS["binary"])
    model.coefs_[0][...] = 1000.0
    logs = model.predict_log_proba(np.abs(X))
    assert np.isfinite(logs).all()
    np.testing.assert_allclose(logs[:, 0], -1000 * np.abs(X).sum(axis=1) - model.intercepts_[0], rtol=1e-12)


# ---- scikit-learn's tools


def test_pipeline_search_and_curves():
    x, y = load_digits(return_X_y=True)
    x, y = x[:600], y[:600]
    pipeline = make_pipeline(
        StandardScaler(), MLPClassifier((32,), max_iter=15, learning_rate_init=0.01, random_state=0)
    )
    grid = {"mlpclassifier__alpha": [1e-4, 100.0], "mlpclassifier__solver": ["adam", "nadam"]}
    search = GridSearchCV(pipeline, grid, cv=3, n_jobs=2).fit(x, y)
    assert search.best_score_ > 0.85
    assert search.best_params_["mlpclassifier__alpha"] == 1e-4
    assert cross_val_score(pipeline, x, y, cv=3).min() > 0.8
    sizes, _, scores = learning_curve(pipeline, x, y, cv=3, train_sizes=[0.1, 1.0], exploit_incremental_learning=False)
    assert sizes.tolist() == [40, 400]
    assert scores[1].mean() > scores[0].mean()
    incremental = MLPClassifier((32,), max_iter=15, random_state=0)
    _, _, scores = learning_curve(incremental, x / 16, y, train_sizes=[0.5, 1.0], exploit_incremental_learning=True)
    assert np.isfinite(scores).all()


def test_calibration_with_weights():
    model = CalibratedClassifierCV(MLPClassifier(max_iter=20, learning_rate_init=0.01, random_state=0), cv=3)
    model.fit(X, TARGETS["binary"], sample_weight=WEIGHTS + 0.5)
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    assert model.score(X, TARGETS["binary"]) > 0.8


def test_data_frames_and_labels_of_any_type():
    frame = pandas.DataFrame(X, columns=list("abcde"))
    for labels in (pandas.Series(TARGETS["binary"]), pandas.Series(TARGETS["binary"]).astype("category"), LINEAR > 0):
        y = labels[:, 0] if isinstance(labels, np.ndarray) else labels
        model = MLPClassifier(max_iter=30, learning_rate_init=0.01, random_state=0).fit(frame, y)
        assert model.feature_names_in_.tolist() == list("abcde")
        assert model.n_features_in_ == 5
        assert set(model.predict(frame)) == set(np.unique(y))
        assert model.score(frame, y) > 0.8
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("edcba")])
    with pytest.warns(UserWarning, match="feature names"):
        model.predict(X)


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
def test_sparse_input_is_refused(kind):
    with pytest.raises(TypeError, match="dense data is required"):
        kind().fit(sparse.csr_array(X), TARGETS["binary" if kind is MLPClassifier else "one output"])


def test_sparse_multilabel_targets():
    y = TARGETS["multilabel"]
    settings = {"max_iter": 2, "random_state": 0}
    dense = MLPClassifier(**settings).fit(X, y)
    assert bits(MLPClassifier(**settings).fit(X, sparse.csr_array(y))) == bits(dense)
    assert dense.predict_proba(X).shape == (110, 3)
    assert dense.classes_.tolist() == [0, 1, 2]


def test_dtypes_are_kept():
    x = X.astype(np.float32)
    model = MLPRegressor(max_iter=2).fit(x, TARGETS["one output"])
    assert model.predict(X).dtype == model.coefs_[0].dtype == np.float32
    assert model.predict(np.arange(10).reshape(2, 5)).shape == (2,)
    assert MLPRegressor(max_iter=2).fit(X, TARGETS["one output"]).predict(x).dtype == np.float64


@pytest.mark.parametrize("settings", [{}, {"shuffle": False}])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_data_are_not_copied_and_not_kept(dtype, settings, monkeypatch):
    given = []

    class Spy(_estimator.RowBatches):
        def __init__(self, x, y, *more, **options):
            given.append((x, y))
            super().__init__(x, y, *more, **options)

    monkeypatch.setattr(_estimator, "RowBatches", Spy)
    x, y = X.astype(dtype), LINEAR.astype(dtype)
    model = MLPRegressor(max_iter=2, batch_size=50, **settings).fit(x, y)
    ((seen_x, seen_y),) = given
    assert np.shares_memory(seen_x, x)
    assert np.shares_memory(seen_y, y)
    given.clear()
    model.predict(x)
    gone = weakref.ref(x)
    del x, seen_x
    assert gone() is None


# ---- nonsense

NONSENSE = [
    ({"hidden_layer_sizes": (10, 0)}, ValueError, r"hidden_layer_sizes\[1\] is 0, expected an integer >= 1"),
    ({"hidden_layer_sizes": 2.5}, TypeError, r"hidden_layer_sizes\[0\] is 2.5, expected an integer"),
    ({"hidden_layer_sizes": "100"}, TypeError, r"hidden_layer_sizes is '100', expected integers"),
    ({"activation": "swish"}, ValueError, r"activation is 'swish', expected one of identity, logistic"),
    ({"solver": "lbfgs"}, ValueError, r"solver is 'lbfgs', expected one of .*scikit-learn's own"),
    ({"solver": None}, TypeError, r"solver is None, expected one of"),
    ({"alpha": -1}, ValueError, r"alpha is -1, expected a finite number >= 0"),
    ({"alpha": np.nan}, ValueError, r"alpha is nan, expected a finite number >= 0"),
    ({"batch_size": 0}, ValueError, r"batch_size is 0, expected an integer >= 1 or 'auto'"),
    ({"batch_size": "full"}, TypeError, r"batch_size is 'full', expected an integer >= 1 or 'auto'"),
    ({"learning_rate": "cosine"}, ValueError, r"learning_rate is 'cosine', expected one of constant.*a schedule"),
    ({"learning_rate_init": 0.0}, ValueError, r"learning_rate_init is 0.0, expected a finite number > 0"),
    ({"learning_rate_init": "fast"}, TypeError, r"learning_rate_init is 'fast', expected a finite number > 0"),
    ({"max_iter": 0}, ValueError, r"max_iter is 0, expected an integer >= 1"),
    ({"max_iter": True}, TypeError, r"max_iter is True, expected an integer >= 1"),
    ({"shuffle": "no"}, TypeError, r"shuffle is 'no', expected True or False"),
    ({"verbose": "yes"}, TypeError, r"verbose is 'yes', expected True, False or an integer"),
    ({"tol": np.inf}, ValueError, r"tol is inf, expected a finite number >= 0"),
    ({"momentum": 1.1}, ValueError, r"momentum is 1.1, expected a number in \[0, 1\]"),
    ({"beta_2": 1.0}, ValueError, r"beta_2 is 1.0, expected a number in \[0, 1\)"),
    ({"dropout": 1}, ValueError, r"dropout is 1, expected a number in \[0, 1\)"),
    ({"n_iter_no_change": 0.5}, TypeError, r"n_iter_no_change is 0.5, expected an integer >= 1 or numpy.inf"),
    ({"validation_fraction": 1.0}, ValueError, r"validation_fraction is 1.0, expected a number in \[0, 1\)"),
    ({"early_stopping": True, "validation_fraction": 0.001}, ValueError, r"early_stopping would hold out 1 of 110"),
    ({"early_stopping": True, "validation_fraction": 0}, ValueError, r"early_stopping would hold out 0 of 110"),
    ({"solver_options": {"lr": 1}}, ValueError, r"solver_options has 'lr'.*it is learning_rate_init"),
    ({"solver_options": {"betaz": 1}}, ValueError, r"solver_options has 'betaz', which solver 'adam' does not"),
    ({"solver_options": "fast"}, TypeError, r"solver_options is 'fast', expected a dictionary or None"),
    ({"class_weight": "equal"}, TypeError, r"class_weight is 'equal', expected 'balanced', a dictionary or None"),
    ({"class_weight": {"perhaps": 1}}, ValueError, r"class_weight has 'perhaps', which is no class"),
    ({"class_weight": {"yes": -1}}, ValueError, r"class_weight\['yes'\] is -1, expected a finite number >= 0"),
    ({"class_weight": {"yes": 0, "no": 0}}, ValueError, r"sample_weight, times class_weight, is zero in every row"),
    ({"random_state": "seed"}, ValueError, r"'seed' cannot be used to seed"),
]


@pytest.mark.parametrize(("settings", "error", "message"), NONSENSE, ids=[str(settings) for settings, *_ in NONSENSE])
def test_nonsense_is_refused(settings, error, message):
    with pytest.raises(error, match=message):
        MLPClassifier(**settings).fit(X, TARGETS["binary"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(109), r"sample_weight has shape \(109,\), expected one weight a row of X: \(110,\)"),
        (np.ones((110, 1)), r"sample_weight has shape \(110, 1\)"),
        (np.full(110, np.nan), "NaN"),
        (-np.arange(110.0), r"sample_weight is -109.0 in row 109, expected no negative weights"),
        (np.zeros(110), "zero in every row"),
        (-1.0, r"sample_weight is -1.0, expected a finite number >= 0"),
    ],
)
def test_weights_that_are_refused(weights, message):
    for target in ("binary", "one output"):
        _, kind = kinds(target)
        with pytest.raises(ValueError, match=message):
            kind().fit(X, TARGETS[target], sample_weight=weights)


def test_labels_that_are_refused():
    y = TARGETS["multiclass"]
    with pytest.raises(ValueError, match=r"y has 1 class, 'a', expected two or more"):
        MLPClassifier().fit(X, np.full(110, "a"))
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        MLPClassifier().partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y has 7, which is no class; classes are \[5, 6\]"):
        MLPClassifier().partial_fit(X, y, classes=[5, 6])
    model = MLPClassifier().partial_fit(X, y, classes=[7, 6, 5])
    with pytest.raises(ValueError, match=r"classes is \[1, 2\], in the calls before it was \[5, 6, 7\]"):
        model.partial_fit(X, y, classes=[1, 2])
    with pytest.raises(ValueError, match=r"y has shape \(110, 3\), in the fit before it was one label a row"):
        model.partial_fit(X, TARGETS["multilabel"])
    model.partial_fit(X[:1], y[:1])  # a part may lack classes
    with pytest.raises(ValueError, match="class_weight is 'balanced', which partial_fit cannot know"):
        model.set_params(class_weight="balanced").partial_fit(X, y)
    with pytest.raises(ValueError, match="class_weight is given, but y is multilabel"):
        MLPClassifier(class_weight="balanced").fit(X, TARGETS["multilabel"])
    with pytest.raises(ValueError, match="early_stopping is True, but partial_fit"):
        MLPRegressor(early_stopping=True).partial_fit(X, LINEAR)
    regressor = MLPRegressor(max_iter=1).fit(X, LINEAR)
    with pytest.raises(ValueError, match=r"y has 1 outputs, expected 3"):
        regressor.partial_fit(X, LINEAR[:, 0])
    with pytest.raises(ValueError, match=r"X has 4 features"):
        regressor.predict(X[:, :4])


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        ("sys.modules['sklearn'] = None", "scikit-learn is not installed; pip install 'onepass[sklearn]'"),
        (
            "import sklearn.utils.validation as v, sklearn; del v.validate_data; sklearn.__version__ = '1.5.2'",
            "scikit-learn 1.5.2 is installed, expected 1.6 or newer; pip install 'onepass[sklearn]'",
        ),
    ],
)
def test_without_scikit_learn(prepare, message):
    code = f"import sys, onepass\n{prepare}\ntry:\n    import onepass.sklearn\nexcept ImportError as e:\n    print(e)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == message
