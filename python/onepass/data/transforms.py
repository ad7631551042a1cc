"""Functions of a batch, for ``Batches(..., transform=[...])``.

Each takes ``(x, y, generator)`` and returns ``(x, y)``. They belong to the `Batches` that they are given to and to no
others: augmentation goes into those of the training rows alone, scaling into those of validation too.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from onepass.data.rows import Array
from onepass.data.transform import Transform, TransformFunction
from onepass.nn.layer import check_integer

__all__ = [
    "GaussianNoise",
    "MixUp",
    "RandomCrop",
    "RandomHorizontalFlip",
    "Scale",
    "Standardize",
    "Transform",
    "TransformFunction",
]


def _check_floating(name: str, x: Array) -> None:
    if x.dtype.kind != "f":
        raise TypeError(f"{name} takes floating point rows, not {x.dtype}; put Scale before it")


def _check_images(name: str, x: Array) -> None:
    if x.ndim < 3:
        raise ValueError(f"{name} takes images (N, ..., height, width), not rows of shape {x.shape[1:]}")


class Scale(Transform):
    """``factor * x + offset`` in ``dtype``: bytes 0 .. 255 become numbers 0 .. 1.

    Parameters
    ----------
    factor : float, default 1 / 255
    offset : float, default 0.0
    dtype : float32 (default) or float64

    >>> x, y = Scale(1 / 256)(np.array([[0, 64, 255]], np.uint8), np.array([0]), np.random.default_rng(0))
    >>> x
    array([[0.        , 0.25      , 0.99609375]], dtype=float32)
    """

    def __init__(self, factor: float = 1 / 255, offset: float = 0.0, dtype: DTypeLike = np.float32) -> None:
        self.factor = factor
        self.offset = offset
        self.dtype = np.dtype(dtype)

    def __call__(self, x: Array, y: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        out = self.buffer("out", x.shape, self.dtype)
        np.copyto(out, x, casting="unsafe")  # a ufunc that casts takes buffers
        out *= self.factor
        if self.offset:
            out += self.offset
        return out, y

    def __repr__(self) -> str:
        return f"Scale({self.factor!r}, {self.offset!r}, {self.dtype})"


class Standardize(Transform):
    """``(x - mean) / std``, computed in float64 and rounded to ``dtype`` once.

    Parameters
    ----------
    mean, std : arrays of a row's size, or that broadcast to a row
        ``scaling.mean`` and ``scaling.std`` of `data.standardize`; (3, 1, 1) for the channels of images (3, H, W).
    dtype : float32 (default) or float64

    The same bits as `Scaling.apply` on all rows at once, which needs them all in memory; rows keep their shape.

    >>> standardized = Standardize(mean=[1.0], std=[2.0])
    >>> standardized(np.array([[5]]), np.array([0]), np.random.default_rng(0))[0]
    array([[2.]], dtype=float32)
    """

    def __init__(self, mean: ArrayLike, std: ArrayLike, dtype: DTypeLike = np.float32) -> None:
        self.mean, self.std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
        self.dtype = np.dtype(dtype)
        if not (self.std > 0).all():
            raise ValueError("std holds numbers that are not > 0")

    def __call__(self, x: Array, y: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        mean, std = (a.reshape(x.shape[1:]) if a.size == math.prod(x.shape[1:]) else a for a in (self.mean, self.std))
        work = self.buffer("work", x.shape, np.dtype(np.float64))
        out = self.buffer("out", x.shape, self.dtype)
        np.copyto(work, x)
        work -= mean
        work /= std
        np.copyto(out, work, casting="same_kind")
        return out, y

    def __repr__(self) -> str:
        digests = ", ".join(f"{zlib.crc32(array.tobytes()):08x}" for array in (self.mean, self.std))
        return f"Standardize({digests}, {self.dtype})"


class RandomHorizontalFlip(Transform):
    """Mirrors each image with probability ``p``.

    Parameters
    ----------
    p : float, default 0.5
    axis : int, default -1
        Of the width: -1 for (N, H, W) and (N, C, H, W), -2 for (N, H, W, C).

    >>> x = np.arange(4.0).reshape(1, 2, 2)
    >>> RandomHorizontalFlip(p=1)(x, np.array([0]), np.random.default_rng(0))[0].tolist()
    [[[1.0, 0.0], [3.0, 2.0]]]
    """

    def __init__(self, p: float = 0.5, axis: int = -1) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p is {p}, expected a number in [0, 1]")
        self.p = p
        self.axis = axis

    def __call__(self, x: Array, y: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        _check_images("RandomHorizontalFlip", x)
        kept = self.buffer("kept", x.shape, x.dtype)
        kept[...] = x
        mirrored = generator.random(len(x)) < self.p
        np.copyto(x, np.flip(kept, self.axis), where=mirrored.reshape(-1, *(1,) * (x.ndim - 1)))
        return x, y

    def __repr__(self) -> str:
        return f"RandomHorizontalFlip({self.p!r}, axis={self.axis})"


class RandomCrop(Transform):
    """Shifts each image (..., H, W) by up to ``padding`` pixels down or up, left or right; what comes in is ``fill``.

    The same as padding all sides and cutting out a part of the old size: He et al., 2016, with 4 for 32x32 images.

    Parameters
    ----------
    padding : int >= 1
    fill : float, default 0.0

    >>> x = np.ones((100, 2, 2))
    >>> x, y = RandomCrop(1)(x, np.zeros(100), np.random.default_rng(0))
    >>> sorted(set(x.sum(axis=(1, 2)).tolist()))  # by a corner, by a side, not at all
    [1.0, 2.0, 4.0]
    """

    def __init__(self, padding: int, fill: float = 0.0) -> None:
        check_integer("padding", padding, 1)
        self.padding = padding
        self.fill = fill

    def __call__(self, x: Array, y: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        _check_images("RandomCrop", x)
        pad, (height, width) = self.padding, x.shape[-2:]
        padded = self.buffer("padded", (*x.shape[:-2], height + 2 * pad, width + 2 * pad), x.dtype)
        padded[...] = self.fill
        padded[..., pad : pad + height, pad : pad + width] = x
        corners = generator.integers(2 * pad + 1, size=(len(x), 2)).tolist()
        for image, wide, (top, left) in zip(x, padded, corners, strict=True):
            image[...] = wide[..., top : top + height, left : left + width]
        return x, y

    def __repr__(self) -> str:
        return f"RandomCrop({self.padding}, fill={self.fill!r})"


class GaussianNoise(Transform):
    """Adds independent normal noise of deviation ``std`` to every element.

    >>> x, y = GaussianNoise(0.1)(np.zeros((100, 100), np.float32), np.zeros(100), np.random.default_rng(0))
    >>> bool(0.098 < x.std() < 0.102)
    True
    """

    def __init__(self, std: float) -> None:
        if not 0 <= std < math.inf:
            raise ValueError(f"std is {std}, expected a finite number >= 0")
        self.std = std

    def __call__(self, x: Array, y: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        _check_floating("GaussianNoise", x)
        noise = self.buffer("noise", x.shape, x.dtype)
        generator.standard_normal(dtype=x.dtype.type, out=noise)
        noise *= x.dtype.type(self.std)
        x += noise
        return x, y

    def __repr__(self) -> str:
        return f"GaussianNoise({self.std!r})"


class MixUp(Transform):
    """Averages each row with another of its batch, and their targets with them.

    ``share * x + (1 - share) * x[others]`` with ``others`` a permutation and one ``share`` a batch from Beta(alpha,
    alpha): Zhang et al., "mixup: Beyond empirical risk minimization", 2018. Labels (N,) become probabilities
    (N, classes) of x's dtype, which `losses.CrossEntropy` takes; targets of x's dtype are averaged as they are.

    Parameters
    ----------
    classes : int or None
        The number of classes; None for targets that are numbers or probabilities already.
    alpha : float, default 0.2

    >>> x, y = np.array([[0.0], [1.0]]), np.array([0, 1])
    >>> x, y = MixUp(2)(x, y, np.random.default_rng(0))
    >>> bool((x[:, 0] == y[:, 1]).all())
    True
    """

    def __init__(self, classes: int | None, alpha: float = 0.2) -> None:
        if classes is not None:
            check_integer("classes", classes, 2)
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha is {alpha}, expected a finite number > 0")
        self.classes = classes
        self.alpha = alpha

    def __call__(self, x: Array, y: Array, generator: np.random.Generator) -> tuple[Array, Array]:
        _check_floating("MixUp", x)
        share, others = generator.beta(self.alpha, self.alpha), generator.permutation(len(x))
        targets = y if self.classes is None else self._probabilities(x.dtype, y, self.classes)
        if targets.dtype.kind != "f":
            raise TypeError(f"MixUp averages targets, which are {targets.dtype}; give the number of classes")
        for name, array in (("x", x), ("y", targets)):
            other = self.buffer(name, array.shape, array.dtype)
            array.take(others, 0, other, "clip")
            other *= array.dtype.type(1 - share)
            array *= array.dtype.type(share)
            array += other
        return x, targets

    def _probabilities(self, dtype: np.dtype[np.generic], y: Array, classes: int) -> Array:
        if y.ndim != 1 or y.dtype.kind not in "iu":
            raise TypeError(f"MixUp({classes}) takes labels (N,) that are integers, not {y.dtype} {y.shape}")
        if y.min() < 0 or y.max() >= classes:
            raise ValueError(f"y holds labels {y.min()} .. {y.max()}, expected 0 .. {classes - 1}")
        out = self.buffer("probabilities", (len(y), classes), dtype)
        out[...] = 0
        out[np.arange(len(y)), y] = 1
        return out

    def __repr__(self) -> str:
        return f"MixUp({self.classes}, alpha={self.alpha!r})"
