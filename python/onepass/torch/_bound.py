"""An optimizer of onepass.optim on the memory of tensors.

torch's optimizer keeps states as tensors, and gradients come as new tensors in every step. What lies where is looked at
once, and compared with what is there in each step: addresses, strides, shapes and types. Nothing holds a gradient after
the step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from onepass import optim
from onepass.optim.optimizer import StepInfo
from onepass.torch._tensors import Array, array, check_grad, increment_versions, is_distributed, local, scalar_type
from onepass.torch._threads import in_threads

_address: Callable[[Tensor], int] = Tensor.data_ptr
_stride: Callable[[Tensor], tuple[int, ...]] = Tensor.stride
_is_contiguous: Callable[[Tensor], bool] = Tensor.is_contiguous
_is_negated: Callable[[Tensor], bool] = Tensor.is_neg

Addresses = list[int | None]


class OnTensors(optim.Optimizer):
    """What an optimizer becomes on tensors: it takes what a parameter already has, and addresses for gradients."""

    found: Sequence[Mapping[str, Array]]
    """What each parameter has: states by our names, master, lower."""

    def _make_weights(self) -> tuple[list[Array], dict[str, list[Array | None]]]:
        weights, beside = super()._make_weights()
        for i, found in enumerate(self.found):
            weights[i] = found.get("master", weights[i])
            if "lower" in found:
                beside["lower"][i] = found["lower"]
        return weights, beside

    def _make_states(self) -> list[tuple[Array, ...]]:
        states = []
        for weights, found in zip(self.weights, self.found, strict=True):
            names = self.update.states
            if any(name not in found for name in names):
                fresh = self._storage.states(self.update, weights, self.initial_states(weights))
                found = {**dict(zip(names, fresh, strict=True)), **found}
            states.append(tuple([found[name] for name in names]))
        return states

    def _run(self, grads: Addresses, grad_scale: float) -> None:
        limit = math.inf if self.max_value is None else self.max_value
        in_threads(self._plan.step_at, grads, self._hyper, grad_scale, limit, 0)


@functools.cache
def on_tensors(rule: type[optim.Optimizer]) -> type[OnTensors]:
    return type(rule.__name__, (OnTensors, rule), {})


class ReshapedError(Exception):
    """A gradient has another shape or type than before, as its parameter has: all must be looked at again."""


class Bound:
    """Parameters of one update, and the optimizer on their memory.

    Args:
        rule: the optimizer's class.
        groups: options of each group, in the rule's terms, with tensors as ``params``.
        found: what each parameter has, as arrays.
        steps: how many each has made.
        arguments: of the rule, beside the options.
    """

    def __init__(
        self,
        rule: type[optim.Optimizer],
        groups: Sequence[Mapping[str, Any]],
        found: Sequence[Mapping[str, Array]],
        steps: list[int],
        arguments: Mapping[str, Any],
    ) -> None:
        self.params: list[Tensor] = [p for group in groups for p in group["params"]]
        self.group_of = [at for at, group in enumerate(groups) for _ in group["params"]]
        self.distributed = any(map(is_distributed, self.params))
        kind = on_tensors(cast(Any, rule))
        self.optimizer = kind.__new__(kind)
        self.optimizer.found = found
        arrays = [{**group, "params": [array(local(p)) for p in group["params"]]} for group in groups]
        self.optimizer.__init__(arrays, dtype="bfloat16", **arguments)  # type: ignore[misc]
        self.plan = self.optimizer._plan
        self.plan.steps = steps
        self.steps = torch.tensor(
            steps, dtype=scalar_type(), device="cpu"
        )  # what torch shows of them; (number of parameters,)
        self._known = self.steps.numpy().tobytes()
        self.beside: dict[str, Tensor] = {}  # other numbers that torch shows, each (number of parameters,)
        self.unwritten = list(range(len(self.params)))  # those whose states the caller has not been given
        own = self._own()
        self._addresses, self._strides = list(map(_address, own)), list(map(_stride, own))
        self._bytes, self._types = [p.nbytes for p in own], [p.dtype for p in own]
        self._gaps = [i for i, tensor in enumerate(own) if not tensor.is_contiguous()]
        unseen: list[Any] = [None] * len(self.params)
        self._held: list[Tensor | None] = []
        weights, params = self.optimizer.weights, self.optimizer._params
        self._masters = [i for i, param in enumerate(params) if weights[i] is not param]
        self._adopt()
        self._grads = (unseen, list(unseen), list(unseen))  # strides, shapes and types

    def _own(self) -> list[Tensor]:
        """The parameters' parts in this process."""
        return list(map(local, self.params)) if self.distributed else self.params

    def unchanged(self) -> bool:
        """Whether the parameters lie where they lay, and nobody has changed a step count.

        Shapes and types are seen by those of the gradients, which the number of bytes must fit; of parameters without
        gaps, these and the address say all.
        """
        own = self._own()
        if list(map(_address, own)) != self._addresses or [p.nbytes for p in own] != self._bytes:
            return False
        if self.steps.numpy().tobytes() != self._known:  # asked anew: share_memory_ moves it
            return False
        if self._masters and self._versions_of_masters() != self._versions:
            self._adopt()
        if not self._gaps:
            return all(map(_is_contiguous, own))
        return list(map(_stride, own)) == self._strides

    def _versions_of_masters(self) -> list[int | None]:
        own = self._own()
        return [None if own[i].is_inference() else own[i]._version for i in self._masters]

    def _adopt(self) -> None:
        """Takes what somebody else has written to a parameter (model.load_state_dict, say) into its master weights.

        Those of elements that are still the rounded master weights keep their lower bits.
        """
        for i in self._masters:
            param, master = local(self.params[i]).detach(), torch.from_numpy(self.optimizer.weights[i])
            master.copy_(torch.where(master.to(param.dtype) == param, master, param.float()))
        self._versions = self._versions_of_masters()

    def kept(self, i: int) -> dict[str, Array]:
        """What a parameter has, by our names: states, master, lower."""
        return self.optimizer._kept(i)

    def write_beside(self, numbers: Callable[[int, Mapping[str, Any]], dict[str, float]]) -> None:
        """Shows the numbers that follow from a parameter's step count and its group's options."""
        known: dict[tuple[int, int], dict[str, float]] = {}
        arrays = {name: shown.numpy() for name, shown in self.beside.items()}
        for i, (at, step) in enumerate(zip(self.group_of, self.plan.steps, strict=True)):
            if (at, step) not in known:
                known[at, step] = numbers(step, self.optimizer.param_groups[at])
            for name, value in known[at, step].items():
                arrays[name][i] = value

    def check_options(self) -> None:
        """Refuses what must not be; as the step would, but before another one has stepped."""
        if self.optimizer.param_groups != self.optimizer._seen_groups:
            self.optimizer._read_groups()

    def addresses(self) -> Addresses:
        """Of the gradients; None where there is none."""
        grads: list[Tensor | None] = [p.grad for p in self.params]
        if self.distributed:
            grads = list(map(_local_grad, self.params, grads))
        self._held = grads  # until the step is made: another thread may drop them
        present = [grad for grad in grads if grad is not None]
        whole = len(present) == len(grads)
        if any(map(_is_negated, present)):
            self._check(grads)
        try:
            addresses: Addresses = list(map(_address, present))
            strides = list(map(_stride, present))
        except RuntimeError:  # there is one without memory
            self._check(grads)
            raise
        shapes, types = [grad.shape for grad in present], [grad.dtype for grad in present]
        if whole and (strides, shapes, types) == self._grads:
            return addresses
        seen = list(zip(*self._grads, strict=True))
        looks = iter(zip(addresses, strides, shapes, types, strict=True))
        addresses = []
        for i, grad in enumerate(grads):
            if grad is None:
                addresses.append(None)
                continue
            address, *look = next(looks)
            if seen[i][1] not in (None, look[1]) or local(self.params[i]).dtype != self._types[i]:
                raise ReshapedError
            if tuple(look) != seen[i]:
                self._show(i, grad)
                for kept, value in zip(self._grads, look, strict=True):
                    kept[i] = value
            addresses.append(address)
        return addresses

    def release(self) -> None:
        """Lets go of the gradients whose addresses were given."""
        self._held = []

    def _check(self, grads: Sequence[Tensor | None]) -> None:
        for i, grad in enumerate(grads):
            if grad is not None:
                check_grad(grad, f"grad[{i}]")

    def _show(self, i: int, grad: Tensor) -> None:
        check_grad(grad, f"grad[{i}]")
        self.plan.show_grad(i, array(grad))

    def norm(self, addresses: Addresses) -> float:
        """Of all gradients, in this process."""
        return in_threads(self.plan.norm_at, addresses)

    def step(self, addresses: Addresses, grad_scale: float) -> StepInfo:
        info = self.optimizer.step(addresses, grad_scale)  # type: ignore[arg-type]
        moved, numbers = self.params, self.steps.numpy()
        if None in addresses:
            made = [address is not None for address in addresses]
            moved = [p for p, own in zip(moved, made, strict=True) if own]
            numbers += made
        else:
            numbers += 1
        self._known = numbers.tobytes()
        increment_versions(moved)
        if self.distributed:
            increment_versions([own for p in moved if (own := local(p)) is not p])
        self.release()
        self._versions = self._versions_of_masters()
        return info


def _local_grad(param: Any, grad: Any) -> Any:
    """A gradient's part in this process, placed as the parameter is."""
    if grad is None or not is_distributed(grad):
        return grad
    if grad.placements != param.placements:
        grad = grad.redistribute(param.device_mesh, param.placements)
    return local(grad)
