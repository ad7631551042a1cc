"""y = w1 w2 x: the smallest network whose error surface has a saddle point, and the ways out of it.

One training example, x = 1 and y = 1, two layers of one weight each and no bias: L = (1 - w1 w2)². Everything can be
computed by hand, and is computed here as for any network.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onepass import landscape, losses, nn, optim
from onepass._extras import require
from onepass.lecture import Chapter, Picture
from onepass.lecture.chapter import Results
from onepass.lecture.style import COLORS, MARKERS, SURFACE, figure

Array = NDArray[np.float64]

ORIGIN = np.zeros(2)
LEARNING_RATE, STEPS = 0.1, 160
RIDGE = np.array([1.0, -1.0])
DISTURBANCES = (0.0, 1e-9, 1e-6, 1e-3)
SMALL, STEPS_OF_LAYERS = 0.01, 1000  # all weights at the start, two layers against three
DARK = {"facecolor": "0.3", "edgecolor": "white", "labelcolor": "white"}  # legends with white lines
HALF = 0.5  # the loss at which a run has left the plateau of loss 1


def network(layers: int) -> Any:
    """Loss and gradient of w1 w2 ... at (1, 1)."""
    model = nn.Sequential(*[nn.Linear(1, 1, bias=False, dtype=np.float64) for _ in range(layers)])
    return landscape.from_model(model, losses.MeanSquaredError(), np.ones((1, 1)), np.ones((1, 1)))


def descend(f: Any, start: Array, steps: int) -> dict[str, Any]:
    """Weights (steps + 1, n) and their losses under gradient descent, and the step at which the plateau is left."""
    w = start.copy()
    optimizer = optim.SGD([w], lr=LEARNING_RATE)
    path, path_losses = [], []
    for _ in range(steps + 1):
        loss, gradient = f(w)
        path.append(w.copy())
        path_losses.append(loss)
        optimizer.step([gradient])
    below = np.flatnonzero(np.array(path_losses) < HALF)
    left = int(below[0]) if below.size else None
    return {"path": np.array(path), "losses": np.array(path_losses), "left": left}


def way_down(escape: landscape.Escape) -> Array:
    """The path up to where it ends for good; what comes behind are trials whether the end is a minimum."""
    end = [np.array_equal(w, escape.theta) for w in escape.path].index(True)
    return np.array(escape.path[: end + 1])


def compute() -> dict[str, Any]:
    f = network(2)
    report = landscape.critical_point(f, ORIGIN)
    pairs = landscape.eigenpairs(f, ORIGIN)
    down, up = pairs.vectors.T  # ascending eigenvalues: the negative one first
    steps = np.linspace(-1.6, 1.6, 129)

    def hessian_vector(w: Array, v: Array) -> Array:
        return landscape.hessian_vector_product(f, w, v).value

    escape = landscape.escape(f, ORIGIN, report)
    scipy = require("scipy.optimize").minimize(f, ORIGIN, jac=True, method="trust-ncg", hessp=hessian_vector)
    deep = network(3)
    return {
        "surface": landscape.plane(f, ORIGIN, list(np.eye(2)), (-2, 2), 81),
        "gradient": f(ORIGIN)[1],
        "hessian": landscape.hessian(f, ORIGIN),
        "report": report,
        "eigenvalues": pairs.values,
        "eigenvectors": pairs.vectors,
        "taylor": {"down": landscape.taylor(f, ORIGIN, down, steps), "up": landscape.taylor(f, ORIGIN, up, steps)},
        "near": landscape.taylor(f, ORIGIN, down, np.geomspace(0.02, 2, 25)),
        "scipy": {"success": bool(scipy.success), "loss": float(scipy.fun), "steps": int(scipy.nit), "end": scipy.x},
        "scipy_verdict": landscape.check_result(scipy, f).verdict,
        "escape": escape,
        "way_down": way_down(escape),
        "ridge": {size: descend(f, RIDGE + size, STEPS) for size in DISTURBANCES},
        "deep": {
            "report": landscape.critical_point(deep, np.zeros(3)),
            "hessian": landscape.hessian(deep, np.zeros(3)),
            "escape": landscape.escape(deep, np.zeros(3)),
            "taylor": {
                n: landscape.taylor(network(n), np.zeros(n), np.ones(n), np.linspace(-0.4, 1.2, 81)) for n in (2, 3)
            },
            "runs": {n: descend(network(n), np.full(n, SMALL), STEPS_OF_LAYERS) for n in (2, 3)},
        },
    }


def contours(made: Any, axes: Any, surface: Any) -> None:
    """The error surface, its minima, and the saddle's own contour line."""
    levels = [0, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 25]
    norm = require("matplotlib.colors").BoundaryNorm(levels, 256)
    a, b = surface.a, surface.b
    drawn = axes.contourf(a, b, surface.losses, levels=levels, norm=norm, cmap=SURFACE)
    made.colorbar(drawn, ax=axes, label="loss", ticks=levels, format="%g")
    axes.contour(a, b, surface.losses, levels=[1.0], colors="white", linewidths=0.8)
    for side in (1, -1):
        w = side * np.linspace(0.5, 2, 51)
        axes.plot(w, 1 / w, "--", color="white", linewidth=2, label="minima, w1 w2 = 1" if side > 0 else None)
    axes.set(xlabel="weight w1", ylabel="weight w2", aspect="equal", xticks=range(-2, 3), yticks=range(-2, 3))
    axes.grid(visible=False)


def draw_surface(results: Results) -> Any:
    made, axes = figure(height=4.3)
    contours(made, axes, results["surface"])
    for value, vector, color in zip(results["eigenvalues"], results["eigenvectors"].T, COLORS[1:3], strict=True):
        for side in (1, -1):
            end = side * 0.9 * vector
            axes.annotate(
                "", end, ORIGIN, arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 3, "shrinkA": 5}
            )
        at = 1.05 * vector * np.sign(vector[1])
        axes.text(*at, f"λ = {value:.0f}", color="black", ha="center", bbox={"facecolor": "white", "pad": 2})
    style = {"linewidth": 1.5, "markersize": 7, "markeredgecolor": "black", "zorder": 3}
    axes.plot(*results["way_down"].T, "o-", color="white", label="escape", **style)
    axes.plot(
        0, 0, "X", color="white", markeredgecolor="black", markersize=12, linestyle="", label="saddle point", zorder=4
    )
    axes.legend(loc="lower right", **DARK)
    return made


def draw_taylor(results: Results) -> Any:
    made, (above, below) = figure(2, 1, height=5.6)
    for k, (name, color) in enumerate((("up", COLORS[2]), ("down", COLORS[1]))):
        line = results["taylor"][name]
        value = results["eigenvalues"][1 - k]
        above.plot(line.steps, line.losses, color=color, label=f"loss, λ = {value:.0f}")
        above.plot(line.steps, line.second_order, "--", color=color, label="its second-order model")
    above.set(xlabel="step u along the eigenvector", ylabel="loss", xlim=(-1.6, 1.6), ylim=(-0.8, 5), yticks=range(5))
    above.legend(loc="upper center", ncols=2)
    near = results["near"]
    difference = np.abs(near.losses - near.second_order)
    below.loglog(near.steps, difference, MARKERS[0], color=COLORS[1], label="|loss - model|")
    below.loglog(near.steps, near.steps**4 / 4, color=COLORS[6], linewidth=1, label="u⁴ / 4")
    below.set(xlabel="step u along the eigenvector of the negative eigenvalue", ylabel="difference of the losses")
    below.legend(loc="upper left")
    return made


def draw_paths(results: Results) -> Any:
    made, axes = figure(height=4.3)
    contours(made, axes, results["surface"])
    for k, size in enumerate((0.0, 1e-3)):
        path = results["ridge"][size]["path"]
        style = {"color": (COLORS[4], "white")[k], "marker": MARKERS[k], "markeredgecolor": "black"}
        label = "from the ridge" if size == 0 else f"moved by {size:g}"
        axes.plot(path[:, 0], path[:, 1], label=label, markersize=(7, 4)[k], linewidth=1, **style)
    axes.legend(loc="upper left", **DARK)
    return made


def draw_plateau(results: Results) -> Any:
    made, (above, below) = figure(2, 1, height=5.2, sharex=True)
    for k, (size, run) in enumerate(results["ridge"].items()):
        style = {"color": COLORS[k], "linestyle": ("-", "--", "-.", ":")[k], "marker": MARKERS[k]}
        label = f"moved by {size:g}" if size else "not moved"
        above.plot(run["losses"], markevery=(5 * k, 20), label=label, **style)
        below.semilogy(np.linalg.norm(run["path"], axis=1), markevery=(5 * k, 20), **style)
    above.set(ylabel="loss", ylim=(-0.1, 4.2))
    above.legend(loc="upper right")
    below.set(xlabel="step", ylabel="distance from the saddle", xlim=(0, STEPS))
    return made


def draw_layers(results: Results) -> Any:
    made, (above, below) = figure(2, 1, height=5.2)
    deep = results["deep"]
    for k, layers in enumerate((2, 3)):
        style = {"color": COLORS[k], "linestyle": ("-", "--")[k], "label": f"{layers} layers"}
        above.plot(deep["taylor"][layers].steps, deep["taylor"][layers].losses, **style)
        below.semilogx(np.arange(1, STEPS_OF_LAYERS + 2), deep["runs"][layers]["losses"], **style)
    above.plot(0, 1, "X", color="white", markeredgecolor="black", markersize=10, label="origin", linestyle="")
    above.set(xlabel="all weights equal to a", ylabel="loss", ylim=(-0.05, 1.3))
    above.legend(loc="lower left")
    below.set(xlabel=f"step, from weights {SMALL:g}", ylabel="loss", ylim=(-0.05, 1.1), xlim=(1, STEPS_OF_LAYERS))
    return made


def text(results: Results) -> str:
    low, high = results["eigenvalues"]
    scipy, verdict = results["scipy"], results["scipy_verdict"]
    escaped, end = results["escape"].loss, results["escape"].report
    late, early = (results["ridge"][size]["left"] for size in (1e-9, 1e-3))
    two, three = (results["deep"]["runs"][layers]["left"] for layers in (2, 3))
    displaced = results["deep"]["escape"].loss
    return f"""\
Two layers of one weight each, y = w1 w2 x, and one example, x = 1, y = 1: L = (1 - w1 w2)². The minima are all points
with w1 w2 = 1. At the origin the gradient, (-2 w2 (1 - w1 w2), -2 w1 (1 - w1 w2)), is 0 as well, but the loss is 1: a
critical point, but of which kind? The Hessian tells: it is [[0, -2], [-2, 0]] there, with the eigenvalues {low:.0f} and
{high:.0f}. Both signs: a saddle point.

The Hessian also tells the way out. Where the gradient is 0, Taylor's series goes on with the second order,
L(θ + u v) ≈ L(θ) + ½ λ u² along an eigenvector v of length 1 with the eigenvalue λ. If λ is negative, a step along v
or -v lowers the loss. Who stops by the gradient alone does not see it: started at the origin, SciPy's trust-ncg, which
has the Hessian at hand, makes {scipy["steps"]} steps and reports success at loss {scipy["loss"]:.0f}.
`landscape.check_result` says of its result: {verdict}. `landscape.escape` goes along v and ends at loss
{escaped:.1g}. The report on that end says "{end.verdict}": it lies in a valley of minima, with the eigenvalue
{end.largest:.0f} across and {abs(end.smallest):.0f} along it.

For gradient descent a saddle is a place to be slow at. Only from the line w1 = -w2, the ridge between the two valleys,
it walks into the saddle. Near the saddle a distance from that line grows by the factor 1 + {LEARNING_RATE} · {-low:.0f}
a step: a start moved by 1e-3 has left after {early} steps, one moved by 1e-9 after {late}. Meanwhile the loss stands
still and the gradient is nearly 0: that looks like the end of training, and is not. Any move off the line ends it.

With three layers, y = w1 w2 w3 x, the Hessian at the origin is 0, too. Such a point is degenerate: the second order
says nothing, and only the third, -2 w1 w2 w3, leads down. Nothing grows by a constant factor here, and from weights of
{SMALL} three layers need {three} steps where two need {two}: one reason why weights do not start near 0. Where no
eigenvector shows the way, `escape` tries random displacements; here it ends at loss {displaced:.1g}."""


def surface_caption(results: Results) -> str:
    escape, value = results["escape"], results["eigenvalues"][0]
    return (
        f"The error surface. The thin lines through the saddle point have its loss, {results['report'].loss:.0f}. "
        f"Along the eigenvector of the eigenvalue {value:.0f} the loss falls on both sides, along the other it rises. "
        f"`landscape.escape` starts at the saddle and ends at ({escape.theta[0]:.2f}, {escape.theta[1]:.2f})."
    )


def taylor_caption(results: Results) -> str:
    near = results["near"]
    i = int(np.argmin(np.abs(near.steps - 0.2)))
    return (
        "Above: the loss along both eigenvectors, and 1 + ½ λ u². Below: the difference of the two, log scales. The "
        f"third order is 0 here, so it shrinks as u⁴: at u = {near.steps[i]:.1f} the model is off by "
        f"{abs(near.losses[i] - near.second_order[i]):.0e}."
    )


def paths_caption(results: Results) -> str:
    end = results["ridge"][1e-3]["path"][-1]
    return (
        f"Gradient descent, learning rate {LEARNING_RATE}, from (1, -1) on the ridge: it walks into the saddle, along "
        "the eigenvector of the positive eigenvalue. Started 0.001 beside, it goes the same way first, then turns, and "
        f"ends at ({end[0]:.2f}, {end[1]:.2f})."
    )


def plateau_caption(results: Results) -> str:
    runs = results["ridge"]
    found = ", ".join(f"{run['left']} (moved by {size:g})" for size, run in runs.items() if size)
    return (
        "The same start, moved off the ridge by less and less. The loss (above) stays at 1 for longer, but gets below "
        f"{HALF} at last: at step {found}. Below, log scale: a run comes near the saddle by a constant factor a step "
        "and leaves it by another, so that to be moved a thousand times less costs the same number of steps each time."
    )


def layers_caption(results: Results) -> str:
    two, three = (results["deep"]["runs"][layers]["left"] for layers in (2, 3))
    return (
        "Above: all weights equal to a. With two layers the loss bends down on both sides of the origin; with three "
        "it is flat there, and falls on one side. Below, log scale: gradient descent from "
        f"a = {SMALL} is below a loss of {HALF} after {two} and {three} steps."
    )


CHAPTER = Chapter(
    number=2,
    title="A saddle point and the way out",
    chinese="鞍点与逃离鞍点",
    text=text,
    terms={
        "critical point": "临界点",
        "saddle point": "鞍点",
        "local minimum": "局部极小值",
        "Hessian": "海森矩阵",
        "eigenvalue": "特征值",
        "eigenvector": "特征向量",
        "Taylor series": "泰勒级数",
        "error surface": "误差表面",
        "gradient": "梯度",
    },
    compute=compute,
    pictures=[
        Picture(
            "saddle-surface",
            draw_surface,
            surface_caption,
            "Contours of the loss over the two weights: minima on the two branches of a hyperbola, a saddle at the "
            "origin, arrows along its two eigenvectors, and a path from the origin to the nearest minimum.",
        ),
        Picture(
            "saddle-taylor",
            draw_taylor,
            taylor_caption,
            "Above: the loss rises along one eigenvector, falls along the other, and parabolas touch both at 0. Below: "
            "the difference to the parabola lies on the line u to the fourth over four.",
        ),
        Picture(
            "saddle-paths",
            draw_paths,
            paths_caption,
            "Two paths of gradient descent from the same corner: one ends in the saddle, the other turns to a minimum.",
        ),
        Picture(
            "saddle-plateau",
            draw_plateau,
            plateau_caption,
            "Loss, and distance from the saddle, against steps: plateaus that are longer the closer the start is to "
            "the ridge; the distance first falls, then rises, both on straight lines.",
        ),
        Picture(
            "saddle-layers",
            draw_layers,
            layers_caption,
            "Above: loss against the common weight, two layers curved, three flat at 0. Below: loss against steps; "
            "three layers stay on the plateau twenty times as long.",
        ),
    ],
)

if __name__ == "__main__":
    CHAPTER.main()
