"""One of two processes that train with onepass.torch: test_torch_distributed.py starts it.

python torch_worker.py RANK FOLDER: does every task, and writes what came of it to FOLDER/RANK.json.
"""

from __future__ import annotations

import copy
import json
import sys
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import onepass.torch as ours

try:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor
except ImportError:  # torch 2.4
    from torch.distributed._tensor import Replicate, Shard, distribute_tensor
try:
    from torch.distributed.fsdp import fully_shard
except ImportError:  # older than 2.6, whose own needs CUDA
    fully_shard = None

TASKS = {}


def task(function):
    TASKS[function.__name__] = function
    return function


def network(dtype=torch.float64):
    """Of layers that two processes cannot share evenly: one has rows for a single process."""
    torch.manual_seed(0)
    layers = [torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1), torch.nn.Tanh(), torch.nn.Linear(1, 3)]
    return torch.nn.Sequential(*layers).to(dtype)


def train(model, optimizer, steps, seed=1, clip=None):
    generator = torch.Generator().manual_seed(seed)
    dtype = next(model.parameters()).dtype
    for _ in range(steps):
        x = torch.randn(2, 8, 6, generator=generator, dtype=torch.float64)[dist.get_rank()].to(dtype)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()


def full(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def assert_close(model, twin, tolerance=1e-12):
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(full(p.detach()), full(q.detach()), rtol=tolerance, atol=tolerance)


def assert_alike_everywhere(model):
    for p in model.parameters():
        own = full(p.detach()).clone()
        first = own.clone()
        dist.broadcast(first, 0)
        assert torch.equal(own, first)


RULES = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "AdamW": {"lr": 0.01},
    "Adagrad": {"lr": 0.1},
    "RMSprop": {"lr": 0.01, "centered": True},
    "NAdam": {"lr": 0.01},
}


@task
def distributed_data_parallel():
    for name, options in RULES.items():
        for views in (False, True):
            models = [DistributedDataParallel(network(), gradient_as_bucket_view=views) for _ in range(2)]
            train(models[0], getattr(ours, name)(models[0].parameters(), **options), 5)
            train(models[1], getattr(torch.optim, name)(models[1].parameters(), foreach=False, **options), 5)
            assert_close(*models)
            assert_alike_everywhere(models[0])


@task
def zero_redundancy():
    for name, options in RULES.items():
        for views in (False, True):
            models = [DistributedDataParallel(network()) for _ in range(2)]
            optimizers = [
                ZeroRedundancyOptimizer(model.parameters(), optimizer_class=getattr(make, name),
                                        parameters_as_bucket_view=views, **options)
                for model, make in zip(models, (ours, torch.optim), strict=True)
            ]  # fmt: skip
            for model, optimizer in zip(models, optimizers, strict=True):
                train(model, optimizer, 4)
            assert_close(*models)
            assert_alike_everywhere(models[0])
            for optimizer in optimizers:
                optimizer.consolidate_state_dict(to=0)
            if dist.get_rank() == 0:
                saved = [optimizer.state_dict() for optimizer in optimizers]
                assert saved[0]["state"].keys() == saved[1]["state"].keys()
                for key, entry in saved[1]["state"].items():
                    for field, value in entry.items():
                        torch.testing.assert_close(saved[0]["state"][key][field], value, rtol=1e-9, atol=1e-9)
            given = [copy.deepcopy(saved[0]) if dist.get_rank() == 0 else None]
            dist.broadcast_object_list(given, 0)
            fresh = ZeroRedundancyOptimizer(models[0].parameters(), optimizer_class=getattr(ours, name),
                                            parameters_as_bucket_view=views, **{**options, "lr": 9.0})  # fmt: skip
            fresh.load_state_dict(given[0])
            train(models[0], fresh, 3, seed=2)
            train(models[1], optimizers[1], 3, seed=2)
            assert_close(*models)


@task
def zero_redundancy_and_clipping():
    """Each process would clip by its own norm: refused, and the remedy that the message names is torch's clipping."""
    model = network()
    for name in ("SGD", "AdamW", "Lion"):
        with pytest.raises(
            ValueError, match=r"max_norm: .*ZeroRedundancyOptimizer.*clip_grad_norm_ over all parameters"
        ):
            ZeroRedundancyOptimizer(model.parameters(), optimizer_class=getattr(ours, name), lr=0.1, max_norm=1.0)
    models = [DistributedDataParallel(network()) for _ in range(2)]
    optimizers = [ZeroRedundancyOptimizer(models[0].parameters(), optimizer_class=ours.SGD, lr=0.5),
                  torch.optim.SGD(models[1].parameters(), lr=0.5, foreach=False)]  # fmt: skip
    for model, optimizer in zip(models, optimizers, strict=True):
        train(model, optimizer, 4, clip=0.01)
    assert_close(*models)


@task
def zero_redundancy_and_options_of_ours():
    """It hands them on in groups as well, also in groups that come later and after a pickle."""
    models = [DistributedDataParallel(network(torch.float32)) for _ in range(2)]
    options = {"lr": 0.01, "max_norm": None, "max_value": 0.01, "state_dtype": "bfloat16", "stochastic_rounding": None,
               "master_weights": None, "seed": 3}  # fmt: skip
    optimizers = [
        ZeroRedundancyOptimizer(list(models[0].parameters())[:4], optimizer_class=ours.AdamW, **options),
        torch.optim.AdamW(models[1].parameters(), lr=0.01, foreach=False),
    ]
    optimizers[0].optim.max_value = 0.02
    optimizers[0].add_param_group({"params": list(models[0].parameters())[4:]})
    assert optimizers[0].optim.storage.state_dtype == "bfloat16"
    for _ in range(4):
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.zero_grad()
            model(torch.ones(2, 6, dtype=torch.float32)).square().mean().backward()
            if model is models[1]:
                torch.nn.utils.clip_grad_value_(model.parameters(), 0.02)
            optimizer.step()
    assert_close(*models, tolerance=1e-3)
    assert_alike_everywhere(models[0])


def sharded(dtype=torch.float64):
    if fully_shard is None:
        pytest.skip("this torch has no fully_shard for the CPU")
    model = network(dtype)
    mesh = init_device_mesh("cpu", (2,))
    for layer in model:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


@task
def fully_sharded():
    sizes = [p.to_local().numel() for p in sharded().parameters()]
    assert (0 in sizes) == (dist.get_rank() == 1), sizes  # an empty shard
    for name, options in RULES.items():
        models = [sharded(), sharded()]
        optimizer = getattr(ours, name)(models[0].parameters(), **options)
        twin = getattr(torch.optim, name)(models[1].parameters(), foreach=False, **options)
        train(models[0], optimizer, 5)
        train(models[1], twin, 5)
        assert_close(*models)
        for p, q in zip(models[0].parameters(), models[1].parameters(), strict=True):
            assert optimizer.state[p].keys() == twin.state[q].keys()
            for field, value in twin.state[q].items():
                own = optimizer.state[p][field]
                assert type(own) is type(value), field
                torch.testing.assert_close(full(own), full(value), rtol=1e-9, atol=1e-9)


@task
def clipping_of_shards():
    models = [sharded(), sharded()]
    optimizer = ours.SGD(models[0].parameters(), lr=0.5, max_norm=0.01)
    train(models[0], optimizer, 4)
    train(models[1], torch.optim.SGD(models[1].parameters(), lr=0.5, foreach=False), 4, clip=0.01)
    assert_close(*models)
    norms = [None, None]
    dist.all_gather_object(norms, optimizer.last_step.grad_norm)
    assert norms[0] == norms[1] > 0.01


@task
def norms_of_shards():
    """The norm itself is clip_grad_norm_'s."""
    models = [sharded(), sharded()]
    optimizer = ours.SGD(models[0].parameters(), lr=0.5, max_norm=1e-3)
    twin = torch.optim.SGD(models[1].parameters(), lr=0.5, foreach=False)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(2, 8, 6, generator=generator, dtype=torch.float64)[dist.get_rank()]
        for model in models:
            model.zero_grad()
            model(x).square().mean().backward()
        own = torch.linalg.vector_norm(torch.stack([p.grad.to_local().norm() for p in models[0].parameters()])).item()
        optimizer.step()
        expected = full(torch.nn.utils.clip_grad_norm_(models[1].parameters(), 1e-3)).item()
        twin.step()
        assert optimizer.last_step.grad_norm == pytest.approx(expected, rel=1e-12)
        assert own < 0.99 * expected  # what one process would find by itself
    assert_close(*models)


@task
def norms_of_several_meshes():
    """And of a tensor that is no DTensor, which clip_grad_norm_ does not take: the norm of the whole tensors."""
    generator = torch.Generator().manual_seed(0)
    grads = [torch.randn(5, 3, generator=generator, dtype=torch.float64) for _ in range(4)]
    meshes = [init_device_mesh("cpu", (2,)), init_device_mesh("cpu", (2,), mesh_dim_names=("other",)),
              init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicate", "shard"))]  # fmt: skip
    placements = [[Shard(0)], [Shard(1)], [Replicate(), Shard(0)]]
    params = [torch.nn.Parameter(distribute_tensor(torch.zeros_like(grad), mesh, own))
              for grad, mesh, own in zip(grads, meshes, placements, strict=False)]  # fmt: skip
    for p, grad, mesh, own in zip(params, grads, meshes, placements, strict=False):
        p.grad = distribute_tensor(grad, mesh, own)
    params.append(torch.nn.Parameter(torch.zeros_like(grads[3])))  # as one of fully_shard's ignored_params
    params[3].grad = grads[3].clone()
    optimizer = ours.SGD(params, lr=1.0, max_norm=1.0)
    optimizer.step()
    expected = torch.linalg.vector_norm(torch.stack(grads)).item()
    assert optimizer.last_step.grad_norm == pytest.approx(expected, rel=1e-12)
    for p, grad in zip(params, grads, strict=True):
        torch.testing.assert_close(full(p.detach()), -grad / (expected + 1e-6), rtol=1e-12, atol=1e-12)


@task
def versions_of_shards():
    model = sharded()
    optimizer = ours.SGD(model.parameters(), lr=0.1)
    before = [p._version for p in model.parameters()]
    train(model, optimizer, 1)
    assert all(p._version > old for p, old in zip(model.parameters(), before, strict=True))


@task
def sharded_dictionaries():
    """Full and sharded ones, ours into torch's and back; a fresh optimizer makes its states by a step that must move
    nothing."""
    for whole in (False, True):
        settings = StateDictOptions(full_state_dict=whole, broadcast_from_rank0=False)
        models = [sharded(), sharded()]
        optimizers = [ours.AdamW(models[0].parameters(), lr=0.01),
                      torch.optim.AdamW(models[1].parameters(), lr=0.01, foreach=False)]  # fmt: skip
        for model, optimizer in zip(models, optimizers, strict=True):
            train(model, optimizer, 3)
        saved = [copy.deepcopy(get_optimizer_state_dict(model, optimizer, options=settings))
                 for model, optimizer in zip(models, optimizers, strict=True)]  # fmt: skip
        if not whole or dist.get_rank() == 0:
            assert saved[0]["state"].keys() == saved[1]["state"].keys()
        for model, given, make in ((models[0], saved[1], ours), (models[1], saved[0], torch.optim)):
            if whole:
                held = [given]
                dist.broadcast_object_list(held, 0)
                given = held[0]
            before = [full(p.detach()).clone() for p in model.parameters()]
            fresh = make.AdamW(model.parameters(), lr=7.0)
            fresh.zero_grad()  # else torch makes no states
            set_optimizer_state_dict(model, fresh, given, options=settings)
            for p, old in zip(model.parameters(), before, strict=True):
                assert torch.equal(full(p.detach()), old)
            assert fresh.param_groups[0]["lr"] == 0.01
            train(model, fresh, 3, seed=2)
        assert_close(*models)


@task
def checkpoint_files():
    import torch.distributed.checkpoint as checkpoint

    folder = str(FOLDER / "checkpoint")
    for state_dtype, dtype in (("float32", torch.float64), ("bfloat16", torch.bfloat16)):
        storage = {"state_dtype": state_dtype, **({"master_weights": "split"} if dtype == torch.bfloat16 else {})}
        models = [sharded(dtype), sharded(dtype)]
        first = ours.AdamW(models[0].parameters(), lr=0.01, **storage)
        train(models[0], first, 3)
        state = {"model": models[0].state_dict(), "optimizer": get_optimizer_state_dict(models[0], first)}
        checkpoint.save(state, checkpoint_id=folder + state_dtype)
        second = ours.AdamW(models[1].parameters(), lr=0.01, **storage)
        state = {"model": models[1].state_dict(), "optimizer": get_optimizer_state_dict(models[1], second)}
        checkpoint.load(state, checkpoint_id=folder + state_dtype)
        models[1].load_state_dict(state["model"])
        set_optimizer_state_dict(models[1], second, state["optimizer"])
        for model, optimizer in zip(models, (first, second), strict=True):
            train(model, optimizer, 3, seed=2)
        for p, q in zip(*(model.parameters() for model in models), strict=True):
            assert torch.equal(p.to_local(), q.to_local())
        exp_avg = second.state[next(models[1].parameters())]["exp_avg"]
        assert exp_avg.dtype == (torch.bfloat16 if state_dtype == "bfloat16" else torch.float64)


@task
def fully_sharded_data_parallel():
    """FSDP1's plain tensors: max_norm is refused however it comes, and the remedy that the message names is right."""
    for original in (False, True):
        models = [FullyShardedDataParallel(network(torch.float32), use_orig_params=original,
                                           device_id=torch.device("cpu")) for _ in range(2)]  # fmt: skip
        params = list(models[0].parameters())
        for name in ("SGD", "AdamW", "Lion"):
            with pytest.raises(ValueError, match=r"max_norm: params\[0\] of group 0 is FullyShardedData"):
                getattr(ours, name)(params, lr=0.1, max_norm=1.0)
        for name in ("LAMB", "LARS", "SWATS"):
            with pytest.raises(TypeError, match=r"FullyShardedDataParallel.* needs sums over whole tensors"):
                getattr(ours, name)(params, lr=0.1)
        optimizers = [ours.AdamW(params, lr=0.01), torch.optim.AdamW(models[1].parameters(), lr=0.01, foreach=False)]
        generator = torch.Generator().manual_seed(1)
        for _ in range(4):
            x = torch.randn(2, 8, 6, generator=generator, dtype=torch.float32)[dist.get_rank()]
            for model, optimizer in zip(models, optimizers, strict=True):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                model.clip_grad_norm_(0.01)
                optimizer.step()
        for p, q in zip(*(model.parameters() for model in models), strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-6, atol=1e-6)
        optimizers[0].max_norm = 1.0
        before = [p.detach().clone() for p in params]
        with pytest.raises(ValueError, match=r"max_norm: .* its own share by its own norm; .*clip_grad_norm_"):
            optimizers[0].step()
        for p, own in zip(params, before, strict=True):
            assert torch.equal(p, own)
        optimizers[0].max_norm = None
        optimizers[0].step()


@task
def what_shards_cannot_do():
    for name in ("LAMB", "LARS", "SWATS"):
        with pytest.raises(TypeError, match="sums over whole tensors"):
            getattr(ours, name)(sharded().parameters())
    model = sharded(torch.float32)
    optimizer = ours.AdamW(model.parameters(), state_dtype="float8")
    train(model, optimizer, 2)
    with pytest.raises(ValueError, match="8-bit blocks of DTensors"):
        optimizer.state_dict()


FOLDER = Path(sys.argv[2])


def outcome(function):
    try:
        function()
    except pytest.skip.Exception as reason:
        return f"skipped: {reason}"
    except (Exception, pytest.fail.Exception):
        return traceback.format_exc()
    return "ok"


def main():
    rank = int(sys.argv[1])
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)  # of step counts, and of NAdam's product of momenta
    dist.init_process_group("gloo", init_method=f"file://{FOLDER / 'rendezvous'}", rank=rank, world_size=2)
    results = {}
    for name, function in TASKS.items():
        results[name] = outcome(function)
        both = [None, None]
        dist.all_gather_object(both, results[name])
    (FOLDER / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
