"""The loss of a torch module as a function of its parameters, with exact second derivatives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from onepass._extras import require
from onepass.landscape.function import Array, Theta
from onepass.landscape.models import check_vector, split

__all__ = ["TorchFunction", "from_torch"]

Method = TypeVar("Method", bound=Callable[..., Any])


def from_torch(module: Any, loss: Any, x: Any, y: Any) -> TorchFunction:
    """The loss of a torch ``module`` on ``x`` with targets ``y``, as a function of a flat theta.

    Parameters
    ----------
    module : torch.nn.Module
        Copied, as float64 on the CPU, in the mode it is in: in ``train()`` batch normalization uses the statistics of
        these rows; its running ones stay as they are. The caller's module is left alone until `TorchFunction.assign`.
    loss : callable
        ``loss(prediction, y)``, a scalar tensor: a function or a module of torch.
    x, y : tensors or arrays
        All rows at once. Floating-point numbers become float64, integers int64.

    Returns
    -------
    TorchFunction
        ``f(theta) -> (loss, gradient)`` with ``theta`` (n,) float64, the parameters that require a gradient, in the
        order of ``module.parameters()``; ``shapes``; ``loss(theta)``; exact ``hessian_vector(theta, v)`` (double
        backward, Pearlmutter 1994) and ``gauss_newton_vector(theta, v)``; ``assign(theta)``.

    Raises
    ------
    TypeError, ValueError
        What is not a module; no parameter that requires a gradient; a loss that is not a scalar; dropout in training:
        call ``module.eval()``.

    Example::

        model = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        f = landscape.from_torch(model, torch.nn.functional.mse_loss, x, y)
        landscape.eigenpairs(f, f.theta, top=3).values
    """
    return TorchFunction(module, loss, x, y)


def _with_gradients(method: Method) -> Method:
    """``method`` also inside a caller's ``torch.no_grad()`` or ``inference_mode()``, where derivatives would be 0."""

    @wraps(method)
    def with_gradients(self: Any, *arguments: Any) -> Any:
        torch = require("torch", "torch")
        with torch.inference_mode(False), torch.enable_grad():
            return method(self, *arguments)

    return cast("Method", with_gradients)


class TorchFunction:
    """What `from_torch` returns. Not for several threads at once: each needs a ``copy.deepcopy``."""

    @_with_gradients
    def __init__(self, module: Any, loss: Any, x: Any, y: Any) -> None:
        torch = require("torch", "torch")
        if not isinstance(module, torch.nn.Module):
            raise TypeError(f"module is {module!r:.60}, expected a torch.nn.Module; an nn.Layer goes to from_model")
        if not callable(loss):
            raise TypeError(f"loss is {loss!r:.60}, expected a function loss(prediction, y)")
        for name, part in module.named_modules():
            if part.training and isinstance(part, torch.nn.modules.dropout._DropoutNd) and part.p:
                raise ValueError(f"{name or 'module'} is {part!r:.60} in training; call module.eval() first")
        self._callers = module
        self._module = copy.deepcopy(module).to("cpu", torch.float64)
        self._loss = copy.deepcopy(loss).to("cpu", torch.float64) if isinstance(loss, torch.nn.Module) else loss
        self._x, self._y = _tensor(torch, "x", x), _tensor(torch, "y", y)
        self._names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
        if not self._names:
            raise ValueError("module has no parameter that requires a gradient")
        parameters = dict(self._module.named_parameters())
        self.shapes: list[tuple[int, ...]] = [tuple(parameters[name].shape) for name in self._names]
        self.theta: Array = np.concatenate([parameters[name].detach().numpy().ravel() for name in self._names])
        if not self._value(self._prediction(self._leaves(self.theta))).requires_grad:
            raise ValueError(
                "loss(prediction, y) has no derivative by the parameters: something in it detaches from them, or makes "
                "classes of scores"
            )
        first, second = self.loss(self.theta), self.loss(self.theta)
        if first != second and not np.isnan([first, second]).all():
            raise ValueError(
                f"the loss at the same theta is {first!r} and then {second!r}: the module draws random numbers; "
                "call module.eval() first"
            )

    @_with_gradients
    def __call__(self, theta: Theta) -> tuple[float, Array]:
        """Loss and gradient (n,) at the flat ``theta``."""
        leaves = self._leaves(theta)
        value = self._value(self._prediction(leaves))
        return float(value.detach()), self._flat(self._derivative(value, leaves))

    def loss(self, theta: Theta) -> float:
        """The loss alone: one forward pass."""
        with require("torch").no_grad():
            return float(self._value(self._prediction(self._leaves(theta))))

    @_with_gradients
    def hessian_vector(self, theta: Theta, v: Theta) -> Array:
        """``H v`` (n,), exact: the gradient of ``gradient . v``."""
        leaves, v = self._leaves(theta), self._parts(v)
        gradient = self._derivative(self._value(self._prediction(leaves)), leaves, create_graph=True)
        slope = sum((part * direction).sum() for part, direction in zip(gradient, v, strict=True))
        return self._flat(self._derivative(slope, leaves))

    @_with_gradients
    def gauss_newton_vector(self, theta: Theta, v: Theta) -> Array:
        """``J' H_L J v`` (n,), exact. J v is the derivative by u of ``J' u . v``."""
        torch = require("torch")
        leaves, v = self._leaves(theta), self._parts(v)
        prediction = self._prediction(leaves)
        u = torch.zeros_like(prediction, requires_grad=True)
        pulled = self._derivative(prediction, leaves, grad_outputs=u, create_graph=True)
        (pushed,) = self._derivative(pulled, [u], grad_outputs=v)
        point = prediction.detach().requires_grad_()
        gradient = self._derivative(self._value(point), [point], create_graph=True)[0]
        (bent,) = self._derivative((gradient * pushed).sum(), [point])
        return self._flat(self._derivative(prediction, leaves, grad_outputs=bent))

    def assign(self, theta: Theta) -> None:
        """Writes ``theta``, rounded to the parameters' type, into the module that `from_torch` was given."""
        torch = require("torch")
        own = dict(self._callers.named_parameters())
        with torch.no_grad():
            for name, part in zip(self._names, self._parts(theta, "theta"), strict=True):
                own[name].copy_(part)

    def _parts(self, value: Theta, name: str = "v") -> list[Any]:
        torch = require("torch")
        flat = check_vector(name, value, self.theta.size).copy()
        return [torch.from_numpy(part) for part in split(flat, self.shapes)]

    def _leaves(self, theta: Theta) -> list[Any]:
        return [part.requires_grad_() for part in self._parts(theta, "theta")]

    def _prediction(self, leaves: list[Any]) -> Any:
        torch = require("torch")
        buffers = {name: buffer.clone() for name, buffer in self._module.named_buffers()}
        given = dict(zip(self._names, leaves, strict=True)) | buffers
        return torch.func.functional_call(self._module, given, (self._x,))

    def _value(self, prediction: Any) -> Any:
        value = self._loss(prediction, self._y)
        if getattr(value, "numel", lambda: 0)() != 1:
            raise ValueError(f"loss(prediction, y) is {value!r:.60}, expected a scalar tensor; take the mean")
        return value.reshape(())

    def _derivative(self, value: Any, by: list[Any], **options: Any) -> Any:
        """As torch.autograd.grad, with zeros for what value does not depend on."""
        torch = require("torch")
        tensors = value if isinstance(value, (tuple, list)) else [value]
        outputs = options.pop("grad_outputs", None)
        outputs = [outputs] if outputs is not None and not isinstance(outputs, list) else outputs
        outputs = outputs or [None] * len(tensors)
        known = [(t, o) for t, o in zip(tensors, outputs, strict=True) if t.requires_grad]
        if not known:
            return [torch.zeros_like(leaf) for leaf in by]
        found = torch.autograd.grad(
            [t for t, _ in known], by, [o for _, o in known], allow_unused=True, retain_graph=True, **options
        )
        return [torch.zeros_like(leaf) if part is None else part for part, leaf in zip(found, by, strict=True)]

    @staticmethod
    def _flat(parts: list[Any]) -> Array:
        return np.concatenate([part.detach().numpy().ravel() for part in parts])


def _tensor(torch: Any, name: str, value: Any) -> Any:
    tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.from_numpy(np.array(value))
    if not tensor.is_floating_point():
        return tensor.to(torch.int64)  # what torch's losses take for classes
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"{name} holds NaN or inf: repair the data")
    return tensor.to(torch.float64, copy=True)  # a caller's tensor may be one of inference_mode(), and may change
