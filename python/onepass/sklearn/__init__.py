"""Estimators for scikit-learn: an adapter, imported only when asked for (``pip install 'onepass[sklearn]'``).

>>> import numpy as np
>>> from onepass.sklearn import MLPClassifier
>>> x = np.linspace(-1, 1, 100).reshape(100, 1)
>>> labels = np.where(x[:, 0] > 0, "right", "left")
>>> model = MLPClassifier((16,), learning_rate_init=0.05, random_state=0).fit(x, labels)
>>> model.predict([[-0.5], [0.5]]).tolist()
['left', 'right']
"""

from onepass._extras import require

if not hasattr(require("sklearn.utils.validation", "sklearn"), "validate_data"):
    raise ImportError(
        f"scikit-learn {require('sklearn').__version__} is installed, expected 1.6 or newer; "
        "pip install 'onepass[sklearn]'",
        name="sklearn",
    )

from onepass.sklearn.classifier import MLPClassifier
from onepass.sklearn.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
