"""A small transformer learns this project's documentation, byte by byte.

An ordinary PyTorch script. Whoever has such a one changes one line of it, the import of the optimizer:

    from torch.optim import AdamW
    from onepass.torch import AdamW

Both lines are in `optimizer_for`; `--optimizer` chooses. With `onepass-8bit` the optimizer's states take two bytes a
parameter instead of eight: `state_dtype="float8"`.

    python examples/torch/language_model.py --optimizer torch
    python examples/torch/language_model.py --optimizer onepass
    python examples/torch/language_model.py --optimizer onepass-8bit

A minute or two on two cores; `--quick` a few seconds.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim.lr_scheduler import LambdaLR

ROOT = Path(__file__).parents[2]
OPTIMIZERS = ("torch", "onepass", "onepass-8bit")


@dataclass(frozen=True)
class Settings:
    layers: int = 4
    width: int = 256
    heads: int = 4
    context: int = 128  # bytes that a prediction may look back to
    batch: int = 8  # sequences
    steps: int = 300
    warmup: int = 30
    lr: float = 1e-3
    weight_decay: float = 0.1
    max_norm: float = 1.0
    seed: int = 0


QUICK = Settings(layers=2, width=64, context=64, steps=60, warmup=6, lr=3e-3)


def documentation() -> Tensor:
    """The bytes of README.md and docs/**/*.md, (n,) int64."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    text = b"\n\n".join(path.read_bytes() for path in paths)
    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()


class Block(nn.Module):
    """Causal self-attention and two linear layers, each normalized before and added to what it was given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, width) to the same."""
        batch, time, width = x.shape
        qkv = self.qkv(self.norm1(x)).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).reshape(batch, time, width))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Transformer(nn.Module):
    """Bytes (batch, time) to logits (batch, time, 256) of the byte that follows each."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.token = nn.Embedding(256, settings.width)
        self.position = nn.Parameter(torch.zeros(settings.context, settings.width))
        self.blocks = nn.Sequential(*[Block(settings.width, settings.heads) for _ in range(settings.layers)])
        self.norm, self.head = nn.LayerNorm(settings.width), nn.Linear(settings.width, 256, bias=False)
        self.head.weight = self.token.weight
        nn.init.normal_(self.token.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, bytes: Tensor) -> Tensor:
        x = self.token(bytes) + self.position[: bytes.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def optimizer_for(name: str, model: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    options = {}
    if name == "torch":
        from torch.optim import AdamW
    else:
        from onepass.torch import AdamW
    if name == "onepass-8bit":
        options = {"state_dtype": "float8"}
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2]},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return AdamW(groups, lr=settings.lr, betas=(0.9, 0.95), weight_decay=settings.weight_decay, fused=True, **options)


def schedule(settings: Settings) -> Callable[[int], float]:
    """Factor of the learning rate: a linear warm-up, then a cosine to a tenth."""

    def factor(step: int) -> float:
        if step < settings.warmup:
            return (step + 1) / settings.warmup
        done = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    return factor


def state_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Of all tensors that the optimizer keeps."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    return sum(value.numel() * value.element_size() for value in kept)


class Training:
    """Model, optimizer, schedule and batches; the same for all optimizers but for the optimizer."""

    def __init__(self, optimizer: str, settings: Settings, text: Tensor) -> None:
        self.settings = settings
        cut = len(text) * 9 // 10
        self.train, self.validation = text[:cut], text[cut:]
        self.random = torch.Generator().manual_seed(settings.seed)
        torch.manual_seed(settings.seed)
        self.model = Transformer(settings)
        self.optimizer = optimizer_for(optimizer, self.model, settings)
        self.scheduler = LambdaLR(self.optimizer, schedule(settings))
        self.losses: list[float] = []
        self.seconds: list[float] = []  # of a step
        self.optimizer_seconds: list[float] = []  # of the optimizer's part of it

    def step(self) -> float:
        """One batch; its loss in nats a byte."""
        start = time.perf_counter()
        settings = self.settings
        at = torch.randint(len(self.train) - settings.context, (settings.batch, 1), generator=self.random)
        sequences = self.train[at + torch.arange(settings.context + 1)]
        logits = self.model(sequences[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), sequences[:, 1:].flatten())
        self.optimizer.zero_grad()
        loss.backward()
        clip_grad_norm_(self.model.parameters(), settings.max_norm)
        before = time.perf_counter()
        self.optimizer.step()
        after = time.perf_counter()
        self.scheduler.step()
        self.losses.append(loss.item())
        self.seconds.append(time.perf_counter() - start)
        self.optimizer_seconds.append(after - before)
        return self.losses[-1]

    @torch.no_grad()
    def validation_loss(self) -> float:
        """Nats a byte, over the text that was held back, in pieces of the context's length."""
        length = self.settings.context + 1
        pieces = self.validation[: len(self.validation) // length * length].view(-1, length)
        total = 0.0
        for part in pieces.split(32):
            logits = self.model(part[:, :-1])
            total += F.cross_entropy(logits.flatten(0, 1), part[:, 1:].flatten(), reduction="sum").item()
        return total / (len(pieces) * self.settings.context)

    @torch.no_grad()
    def sample(self, start: str, length: int = 200) -> str:
        """What the model makes of the start."""
        found = torch.tensor([list(start.encode())])
        for _ in range(length):
            logits = self.model(found[:, -self.settings.context :])[:, -1]
            following = torch.multinomial((logits / 0.7).softmax(-1), 1, generator=self.random)
            found = torch.cat([found, following], dim=1)
        return bytes(found[0].tolist()).decode(errors="replace")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="onepass")
    parser.add_argument("--quick", action="store_true", help="a small model for some seconds")
    arguments = parser.parse_args()
    settings = QUICK if arguments.quick else Settings()
    training = Training(arguments.optimizer, settings, documentation())
    parameters = sum(p.numel() for p in training.model.parameters())
    print(f"{parameters} parameters, {len(training.train)} bytes of text, {settings.steps} steps")
    for step in range(1, settings.steps + 1):
        loss = training.step()
        if step % (settings.steps // 10) == 0:
            print(f"step {step}: loss {loss:.3f} nats a byte")
    each = state_bytes(training.optimizer) / parameters
    whole, part = (1e3 * statistics.median(times) for times in (training.seconds, training.optimizer_seconds))
    print(f"validation loss {training.validation_loss():.3f} nats a byte")
    print(
        f"a step {whole:.1f} ms, {part:.2f} ms of it the optimizer's, whose states take {each:.2f} bytes a parameter\n"
    )
    print(training.sample("## "))


if __name__ == "__main__":
    main()
