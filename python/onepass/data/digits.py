"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

from onepass._extras import require
from onepass.data.dataset import Dataset, check, split

__all__ = ["load_digits_split"]


def load_digits_split() -> Dataset:
    """1797 images (8, 8) of ten digits, pixels 0 .. 16, in a fixed stratified 80/20 split.

    The split is ``train_test_split(test_size=0.2, random_state=0, stratify=y)``: 1437 and 360 rows.
    Needs scikit-learn; without it ImportError naming the extra. Source: Alpaydin and Kaynak,
    "Optical Recognition of Handwritten Digits", UCI, 1998 (its test part).

    >>> dataset = load_digits_split()
    >>> dataset.x.shape, dataset.x_test.shape, dataset.classes
    ((1437, 8, 8), (360, 8, 8), 10)
    """
    digits = require("sklearn.datasets").load_digits()
    return split(check(digits.images, digits.target, None, None, "digits"), "digits")
