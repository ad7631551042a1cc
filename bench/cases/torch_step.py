"""Training steps of a torch program: an MLP, a CNN, a transformer, with torch's optimizer and loss or with ours.

"onepass, optimizer alone" is the program in which one import was changed. In the first, batch normalization and
cross-entropy are ours, too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bench import peers
from bench.case import Array, Case, Entry, Goal, Result
from bench.cases import training, training_cnn
from bench.contenders import numpy_training, torch_steps
from bench.contenders.torch_steps import Problem
from bench.selection import Selection

MLPS = (((64, 128, 128, 10), 32, "small"), ((784, 512, 512, 10), 128, "cache"))
VOCABULARY, WIDTH, HEADS, LAYERS, CONTEXT, SEQUENCES = 4096, 128, 4, 2, 64, 16
GOAL = 1.0


def transformer(torch: Any) -> Any:
    """Tokens (batch, time) to logits (batch * time, VOCABULARY)."""
    nn = torch.nn

    class Transformer(nn.Module):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Embedding(VOCABULARY, WIDTH)
            self.position = nn.Parameter(0.02 * torch.randn(CONTEXT, WIDTH))
            layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
            self.layers = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
            self.head = nn.Linear(WIDTH, VOCABULARY)
            mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
            self.register_buffer("mask", mask, persistent=False)

        def forward(self, tokens: Any) -> Any:
            x = self.token(tokens) + self.position
            return self.head(self.layers(x, mask=self.mask, is_causal=True)).flatten(0, 1)

    return Transformer()


def _transformer() -> Problem:
    torch = peers.load("torch")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformer(torch)
        tokens = torch.randint(VOCABULARY, (SEQUENCES, CONTEXT + 1))
    return model, tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()


def _expected_of_transformer() -> Result:
    """Of torch's own loop over tensors in float64."""
    if not peers.installed("torch"):
        return {}

    def wide() -> Problem:
        model, tokens, y = _transformer()
        return model.double(), tokens, y

    return torch_steps.contender(wide, torch_steps.ORACLE).result()


def _of_arrays(make_model: Callable[[Any], Any], data: Callable[[], tuple[list[Array], Array, Array]]) -> Problem:
    torch = peers.load("torch")
    params, x, y = data()
    model = make_model(torch.nn)
    with torch.no_grad():
        for param, value in zip(model.parameters(), params, strict=True):
            param.copy_(torch.from_numpy(value))
    return model, torch.from_numpy(x), torch.from_numpy(y)


def _case(name: str, size: str, entries: list[Entry], expected: Callable[[], Result]) -> Case:
    goals = tuple(Goal(GOAL, "torch fused|torch foreach", who) for who in ("onepass", "onepass, optimizer alone"))
    return Case(f"torch_step/{name}", size, tuple(entries), expected, goals, rtol=1e-3, atol=2e-5)


def cases(selection: Selection) -> list[Case]:
    found = []
    for sizes, batch, size in MLPS:
        problem = training.Problem(sizes, batch)
        entries = torch_steps.entries(partial(_of_arrays, partial(training.torch_model, problem), problem.data))
        expected = partial(numpy_training.expected, training.loss_and_gradients)
        found.append(_case(f"mlp/{problem.name}", size, entries, lambda make=expected, of=problem: make(*of.data())))
    entries = torch_steps.entries(partial(_of_arrays, training_cnn.torch_model, training_cnn.data))
    found.append(_case(f"cnn/batch_{training_cnn.BATCH}", "small", entries, training_cnn.expected))
    entries = torch_steps.entries(_transformer)
    found.append(_case(f"transformer/batch_{SEQUENCES}x{CONTEXT}", "cache", entries, _expected_of_transformer))
    return found
