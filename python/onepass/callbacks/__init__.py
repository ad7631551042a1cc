"""What can watch a training run, and end or change it."""

from onepass.callbacks.callback import Callback, Run
from onepass.callbacks.checkpoint import Checkpoint
from onepass.callbacks.early_stopping import EarlyStopping
from onepass.callbacks.ema import EMA
from onepass.callbacks.logs import CSVLogger, LearningRateMonitor, TensorBoard
from onepass.callbacks.non_finite import TerminateOnNonFinite
from onepass.callbacks.plateau import ReduceLROnPlateau
from onepass.callbacks.progress_bar import ProgressBar
from onepass.callbacks.trajectory import Trajectory

__all__ = [
    "EMA",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "LearningRateMonitor",
    "ProgressBar",
    "ReduceLROnPlateau",
    "Run",
    "TensorBoard",
    "TerminateOnNonFinite",
    "Trajectory",
]
