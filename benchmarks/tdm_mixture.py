"""
The student of `tests/mixture.py` drawn beside its teacher.

    python benchmarks/tdm_mixture.py [--output docs/images/tdm_mixture.png] [--seed 0]

A mixture of Gaussians whose velocity has a closed form is the teacher; a student of four steps is distilled from it.
Drawn are data, and the samples of the teacher in 100 and in 4 steps and of the student in 4, all from the same noise,
each with its energy distance to other data. It runs on one CPU core, without any pretrained weights.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def draw(panels: dict, limit: float, path: Path) -> None:
    """Samples `(B, 2)` side by side, on one scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dtm_hf.files import written_aside

    # The object interface: pyplot would keep global state, and may look for a display.
    figure = Figure(figsize=(3.2 * len(panels), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, samples) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axes.scatter(*samples.T.numpy(), s=3, alpha=0.35, linewidths=0, color="#b5367a")
        axes.set(aspect="equal", xticks=[], yticks=[], xlim=(-limit, limit), ylim=(-limit, limit))
        axes.set_title(title, fontsize="medium")
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/images/tdm_mixture.png")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import torch
    from mixture import compared, distil, ring

    torch.set_num_threads(1)
    mixture, began = ring(), time.process_time()
    tdm, student = distil(mixture, seed=options.seed)
    print(f"distilled in {time.process_time() - began:.0f} CPU seconds")
    panels = {}
    for name, result in compared(mixture, tdm, student).items():
        print(
            f"{name:22} energy distance {result.distance:.4f}, squared without sampling noise {result.excess:+.5f}, "
            f"fewest samples in a mode {result.fewest:.3f}"
        )
        panels[f"{name}\nenergy distance {result.distance:.3f}"] = result.samples
    draw(panels, limit=2.4, path=options.output)
    print(options.output)


if __name__ == "__main__":
    main()
