"""Data sets from files, and seeded batches."""

from onepass.data import transforms
from onepass.data.batches import Batches
from onepass.data.csv import load_csv
from onepass.data.dataset import DataError, Dataset
from onepass.data.digits import load_digits_split
from onepass.data.features import load_features
from onepass.data.idx import load_idx
from onepass.data.memory_map import open_npy, open_npz
from onepass.data.npz import load_npz
from onepass.data.rows import RowSequence
from onepass.data.sampling import ClassBalanced, Sampler, Weighted
from onepass.data.scaling import Scaling, standardize
from onepass.data.source import load
from onepass.data.subset import Subset

__all__ = [
    "Batches",
    "ClassBalanced",
    "DataError",
    "Dataset",
    "RowSequence",
    "Sampler",
    "Scaling",
    "Subset",
    "Weighted",
    "load",
    "load_csv",
    "load_digits_split",
    "load_features",
    "load_idx",
    "load_npz",
    "open_npy",
    "open_npz",
    "standardize",
    "transforms",
]
