"""onepass's modules in a model that was built of torch's, and back."""

from __future__ import annotations

import torch

from onepass.torch.modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, CrossEntropyLoss

_OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.BatchNorm1d: BatchNorm1d,
    torch.nn.BatchNorm2d: BatchNorm2d,
    torch.nn.BatchNorm3d: BatchNorm3d,
    torch.nn.CrossEntropyLoss: CrossEntropyLoss,
}
_TORCHS = {ours: torchs for torchs, ours in _OURS.items()}


def replace_modules(model: torch.nn.Module) -> list[str]:
    """Makes the model's BatchNorm1d, 2d, 3d and CrossEntropyLoss onepass's, without building anything anew.

    Modules stay the objects that they are, and only their class changes: parameters, buffers, hooks, flags, names in
    state dicts, and what an optimizer or another module knows of them. Subclasses (SyncBatchNorm, lazy or parametrized
    modules) are left alone, and so is what calls torch.nn.functional. What looks for torch's own classes (torch.fx,
    fusion of layers, export to ONNX) wants them back first.

    Args:
        model: any module, itself one of those or with some inside.

    Returns:
        The names of what was replaced, as in ``model.named_modules()``; "" is the model itself.

    Raises:
        ValueError: a batch normalization that is not on the CPU; nothing was replaced.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    >>> replace_modules(model), isinstance(model[1], BatchNorm1d)
    (['1'], True)
    >>> restore_modules(model), type(model[1]) is torch.nn.BatchNorm1d
    (['1'], True)
    """
    return _change(model, _OURS)


def restore_modules(model: torch.nn.Module) -> list[str]:
    """The way back: modules of onepass's classes become torch's, also those that were never replaced.

    Returns:
        The names of what was restored.

    Raises:
        ValueError: a CrossEntropyLoss with z_loss, which torch has not; nothing was restored.
    """
    return _change(model, _TORCHS)


def _change(model: torch.nn.Module, classes: dict[type[torch.nn.Module], type[torch.nn.Module]]) -> list[str]:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
    found = [(name, module) for name, module in model.named_modules() if type(module) in classes]
    for name, module in found:
        if isinstance(module, CrossEntropyLoss) and module.z_loss != 0.0:
            raise ValueError(f"{name or 'model'}: has z_loss={module.z_loss}, which torch's has not; set it to 0 first")
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if classes is _OURS and tensor.device.type != "cpu":
                raise ValueError(f"{name or 'model'}: is on {tensor.device}, expected the CPU; move it with .cpu()")
    for _, module in found:
        module.__class__ = classes[type(module)]
    return [name for name, _ in found]
