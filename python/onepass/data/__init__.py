"""Data sets from files, and seeded batches."""

from onepass.data.batches import Batches
from onepass.data.csv import load_csv
from onepass.data.dataset import DataError, Dataset
from onepass.data.digits import load_digits_split
from onepass.data.features import load_features
from onepass.data.idx import load_idx
from onepass.data.npz import load_npz
from onepass.data.scaling import Scaling, standardize
from onepass.data.source import load

__all__ = [
    "Batches",
    "DataError",
    "Dataset",
    "Scaling",
    "load",
    "load_csv",
    "load_digits_split",
    "load_features",
    "load_idx",
    "load_npz",
    "standardize",
]
