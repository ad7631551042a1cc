"""Transforms of batches: what each computes, that seed, epoch and batch decide the bits, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from onepass import data, losses, nn, optim
from onepass.data import transforms
from onepass.trainer import Trainer

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(1, 256, (50, 3, 8, 6), dtype=np.uint8)  # no 0, which is what comes in at the sides
LABELS = np.arange(50) % 4


def generator(seed=1):
    return np.random.Generator(np.random.Philox(seed))


@pytest.mark.parametrize("given", [np.uint8, np.int64, np.float32, np.float64, np.dtype(">i2")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale(given, dtype):
    x, y = transforms.Scale(1 / 127.5, -1, dtype)(IMAGES.astype(given), LABELS, generator())
    assert x.dtype == dtype
    np.testing.assert_allclose(x, IMAGES.astype(np.float64) / 127.5 - 1, rtol=0, atol=4 * np.finfo(dtype).eps)
    assert y is LABELS


@pytest.mark.parametrize("shape", [(40, 5), (40, 4, 3)])
@pytest.mark.parametrize("given", [np.float32, np.float64, np.uint8])
def test_standardize_is_scaling_to_the_bit(shape, given):
    x = (RNG.random(shape) * 200).astype(given)
    scaling = data.standardize(x)
    for dtype in (np.float32, np.float64):
        found, _ = transforms.Standardize(scaling.mean, scaling.std, dtype)(x, x, generator())
        assert found.dtype == dtype
        assert found.shape == shape
        np.testing.assert_array_equal(found.reshape(40, -1), scaling.apply(x, dtype))


def test_standardize_of_channels_against_torchvision_formula():
    mean, std = np.array([100.0, 120.0, 90.0]).reshape(3, 1, 1), np.array([50.0, 60.0, 70.0]).reshape(3, 1, 1)
    found, _ = transforms.Standardize(mean, std)(IMAGES, LABELS, generator())
    np.testing.assert_allclose(found, (IMAGES - mean) / std, rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="std holds numbers that are not > 0"):
        transforms.Standardize([0.0], [0.0])


@pytest.mark.parametrize("axis", [-1, -2])
def test_flip(axis):
    x, _ = transforms.RandomHorizontalFlip(axis=axis)(IMAGES.copy(), LABELS, generator())
    same = (x == IMAGES).all(axis=(1, 2, 3))
    mirrored = (x == np.flip(IMAGES, axis)).all(axis=(1, 2, 3))
    assert (same ^ mirrored).all()
    assert 10 < mirrored.sum() < 40
    for p, expected in ((0, IMAGES), (1, np.flip(IMAGES, axis))):
        flip = transforms.RandomHorizontalFlip(p, axis)
        np.testing.assert_array_equal(flip(IMAGES.copy(), LABELS, generator())[0], expected)


@pytest.mark.parametrize("images", [IMAGES, IMAGES[:, 0]])
@pytest.mark.parametrize("fill", [0, 9])
def test_crop_is_a_window_of_the_padded_image(images, fill):
    crop = transforms.RandomCrop(2, fill)
    widths = [(0, 0)] * (images.ndim - 2) + [(2, 2)] * 2
    places = set()
    for seed in range(20):
        found, _ = crop(images.copy(), LABELS, generator(seed))
        for image, cut in zip(images, found, strict=True):
            padded = np.pad(image, widths[1:], constant_values=fill)
            equal = [
                (top, left)
                for top in range(5)
                for left in range(5)
                if (padded[..., top : top + 8, left : left + 6] == cut).all()
            ]
            assert len(equal) == 1
            places.add(equal[0])
    assert len(places) == 25


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_noise_has_the_deviation(dtype):
    x = np.full((200, 50), 3, dtype)
    found, _ = transforms.GaussianNoise(0.5)(x, LABELS, generator())
    noise = (found.astype(np.float64) - 3) / 0.5
    stats = pytest.importorskip("scipy.stats")
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.01
    assert found.dtype == dtype


def test_mixup_averages_rows_and_targets_alike():
    x = np.eye(50, dtype=np.float32)
    found, y = transforms.MixUp(4, alpha=1.0)(x.copy(), LABELS, generator())
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, found @ np.eye(4)[LABELS], atol=1e-6)  # found holds the shares of the rows
    np.testing.assert_allclose(y.sum(axis=1), 1, atol=1e-6)
    assert ((found > 0).sum(axis=1) <= 2).all()
    shares = found.diagonal()
    assert len(np.unique(shares[shares < 0.999])) == 1
    numbers, averaged = transforms.MixUp(None, alpha=1.0)(x.copy(), LABELS.astype(np.float64)[:, None], generator())
    np.testing.assert_array_equal(numbers, found)
    np.testing.assert_allclose(averaged[:, 0], found @ LABELS, atol=1e-6)


def test_mixup_draws_from_a_beta_distribution():
    stats = pytest.importorskip("scipy.stats")
    mix, random = transforms.MixUp(2, alpha=0.4), generator()
    shares = []
    while len(shares) < 400:
        x, _ = mix(np.eye(2), np.array([0, 1]), random)
        if x[0, 0] != 1:  # the permutation changed something
            shares.append(x[0, 0])
    assert stats.kstest(shares, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


def test_mixup_trains_with_cross_entropy():
    x = RNG.normal(size=(200, 4)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    model = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2), seed=0)
    trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.02))
    trainer.fit(data.Batches(x, y, 20, transform=transforms.MixUp(2), prefetch=1), epochs=15)
    assert trainer.evaluate(x, y)["accuracy"] > 0.95


ALL = [
    transforms.RandomCrop(1),
    transforms.RandomHorizontalFlip(),
    transforms.Scale(),
    transforms.GaussianNoise(0.1),
    transforms.MixUp(4),
]


def batches(**options):
    options = {"batch_size": 8, "seed": 3, "transform": ALL, **options}
    return data.Batches(IMAGES, LABELS, **options)


def content(epoch):
    return [(x.tobytes(), y.tobytes()) for x, y in epoch]


@pytest.mark.parametrize("shuffle", [True, False])
def test_seed_epoch_and_batch_decide_the_bits(shuffle):
    kept = IMAGES.copy(), LABELS.copy()
    expected = content(batches(shuffle=shuffle).epoch(5))
    again = batches(shuffle=shuffle)
    content(again.epoch(4))
    for start in (0, 1, 6):
        assert content(again.epoch(5, start)) == expected[start:]
        assert content(batches(shuffle=shuffle, prefetch=2).epoch(5, start)) == expected[start:]
    others = [batches(seed=4, shuffle=shuffle).epoch(5), batches(shuffle=shuffle).epoch(6)]
    assert all(content(other)[0] != expected[0] for other in others)
    assert len(set(expected)) == 7
    np.testing.assert_array_equal(IMAGES, kept[0])  # transforms write into copies
    np.testing.assert_array_equal(LABELS, kept[1])


def test_batches_with_the_same_transforms_do_not_share_buffers():
    ALL[2](IMAGES, LABELS, generator())  # which has buffers then
    one, two = batches(seed=1), batches(seed=2)
    expected = content(one.epoch(0)), content(two.epoch(0))
    first, second = one.epoch(0), two.epoch(0)
    for index in range(7):
        (xa, ya), (xb, yb) = next(first), next(second)
        assert (xa.tobytes(), ya.tobytes()) == expected[0][index]
        assert (xb.tobytes(), yb.tobytes()) == expected[1][index]


def test_the_order_of_rows_is_that_without_transforms():
    plain = [y.tolist() for _, y in batches(transform=None).epoch(2)]
    assert [y.tolist() for _, y in batches(transform=transforms.Scale()).epoch(2)] == plain


def test_a_function_of_ones_own():
    def double(x, y, generator):
        x *= 2
        return x, y

    kept = IMAGES.copy()
    for prefetch in (0, 3):
        made = batches(transform=double, shuffle=False, prefetch=prefetch)
        np.testing.assert_array_equal(np.concatenate([x.copy() for x, _ in made.epoch(0)]), IMAGES * 2)
    np.testing.assert_array_equal(IMAGES, kept)
    assert batches(transform=double).state_key()["transform"] == [
        "test_a_function_of_ones_own.<locals>.double",
    ]


def test_settings_are_part_of_what_a_resumed_run_agrees_in():
    def key(*given):
        return batches(transform=given).state_key()["transform"]

    assert key(*ALL) == [
        "RandomCrop(1, fill=0.0)",
        "RandomHorizontalFlip(0.5, axis=-1)",
        "Scale(0.00392156862745098, 0.0, float32)",
        "GaussianNoise(0.1)",
        "MixUp(4, alpha=0.2)",
    ]
    assert key(transforms.Standardize([1.0], [2.0])) != key(transforms.Standardize([1.5], [2.0]))
    assert batches(transform=None).state_key()["transform"] is None
    assert batches(prefetch=4).state_key() == batches().state_key()


@pytest.mark.parametrize(
    ("transform", "error", "match"),
    [
        (lambda x, y, g: x, TypeError, r"transform\[0\], .*<lambda>, returned a ndarray, expected a pair \(x, y\)"),
        (lambda x, y, g: (x.tolist(), y), TypeError, "returned a list as x, not an array"),
        (lambda x, y, g: (x, y[1:]), ValueError, "returned 8 rows of x and 7 of y, expected equally many"),
        (
            [transforms.GaussianNoise(1)],
            TypeError,
            "GaussianNoise takes floating point rows, not uint8; put Scale before",
        ),
        ([transforms.MixUp(4)], TypeError, "MixUp takes floating point rows"),
        ([transforms.Scale(), transforms.MixUp(3)], ValueError, r"y holds labels 0 \.\. 3, expected 0 \.\. 2"),
        ([transforms.Scale(), transforms.MixUp(None)], TypeError, "MixUp averages targets, which are int64"),
        ([None], TypeError, r"transform\[0\] is None, expected a function"),
    ],
)
@pytest.mark.parametrize("prefetch", [0, 1])
def test_transforms_refuse(transform, error, match, prefetch):
    with pytest.raises(error, match=match):
        next(batches(transform=transform, prefetch=prefetch, shuffle=False).epoch(0))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: transforms.RandomCrop(0), "padding is 0"),
        (lambda: transforms.RandomHorizontalFlip(1.5), "p is 1.5"),
        (lambda: transforms.GaussianNoise(-1), "std is -1"),
        (lambda: transforms.MixUp(1), "classes is 1"),
        (lambda: transforms.MixUp(2, alpha=0), "alpha is 0"),
        (lambda: transforms.RandomCrop(1)(np.ones((4, 5)), LABELS[:4], generator()), "RandomCrop takes images"),
        (lambda: transforms.RandomHorizontalFlip()(np.ones((4, 5)), LABELS[:4], generator()), "takes images"),
    ],
)
def test_settings_are_checked(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: transforms.RandomCrop(1.5), r"padding is 1\.5, expected an integer"),
        (lambda: transforms.MixUp(2.0), r"classes is 2\.0, expected an integer"),
    ],
)
def test_settings_that_are_no_integers(make, match):
    with pytest.raises(TypeError, match=match):
        make()


def test_evaluation_has_its_own_transforms():
    """Scaling, and no augmentation: Batches of the validation rows say so."""
    x, y = IMAGES[:, 0], LABELS % 2
    scale = transforms.Scale()
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 2), seed=0)
    trainer = Trainer(model, losses.CrossEntropy(), optim.SGD(model.parameters(), lr=0.0))
    held_out = data.Batches(x, y, 16, shuffle=False, transform=scale)
    training = data.Batches(x, y, 16, transform=[transforms.RandomCrop(2), scale])
    record = trainer.fit(training, validation=held_out)[0]
    scaled = scale(x, y, None)[0].copy()
    assert record["validation_loss"] == trainer.evaluate(scaled, y, 16)["loss"]
    assert record["loss"] != record["validation_loss"]
    np.testing.assert_array_equal(trainer.predict(held_out), trainer.predict(scaled, 16))


def test_mapped_features_standardized_by_batch_train_to_the_bits_of_memory(tmp_path):
    x, y = (RNG.random((80, 5)) * 100), np.arange(80) % 2
    np.savez(tmp_path / "a.npz", x=x, y=y)

    def trained(x, transform):
        model = nn.Sequential(nn.Linear(5, 2), seed=0)
        trainer = Trainer(model, losses.CrossEntropy(), optim.Adam(model.parameters(), lr=0.1))
        trainer.fit(data.Batches(x, y, 16, transform=transform, prefetch=2 if transform else 0), epochs=3)
        return [array.tobytes() for array in model.parameters()]

    scaling = data.standardize(x)
    mapped = data.load_npz(tmp_path / "a.npz", mmap=True)
    again = data.standardize(mapped.x)
    np.testing.assert_array_equal((again.mean, again.std), (scaling.mean, scaling.std))
    transform = transforms.Standardize(again.mean, again.std)
    assert trained(mapped.x, transform) == trained(scaling.apply(x), None)
