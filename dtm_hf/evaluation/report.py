"""The results of a benchmark for people: a Markdown table and pictures."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from dtm_hf.evaluation.metric import Metric
from dtm_hf.evaluation.systems import OWN_FIGURES
from dtm_hf.files import written_aside

_COLOURS = {
    "dtm": "tab:red",
    "student": "tab:orange",
    "oracle": "tab:purple",
    "renoise": "tab:gray",
    "noise": "tab:gray",
}
_OTHER_COLOUR = "tab:blue"


def write_table(results: dict, metrics: Sequence[Metric], path: str | os.PathLike) -> None:
    """Write the Markdown table of [`Summary.results`]; an existing file is replaced."""
    with written_aside(path) as aside:
        aside.write_text(table(results, metrics), encoding="utf-8")


def table(results: dict, metrics: Sequence[Metric]) -> str:
    """Markdown: one row an arm, then the controls; under it what the arms differ in, and whether the metrics work."""
    metrics = [metric for metric in metrics if any(metric.name in arm["metrics"] for arm in results["arms"].values())]
    more = OWN_FIGURES | {"diversity": "diversity", "from_reference": f"from `{results['settings']['reference']}`"}
    more = {
        name: title for name, title in more.items() if any(name in arm["metrics"] for arm in results["arms"].values())
    }
    heads = [*(metric.title + _arrow(metric) for metric in metrics), *more.values()]
    lines = [f"# {results['settings']['set']}", "", _about(results), ""]
    lines += _rows(["arm", "passes", "head calls", "seconds", "RTF", *heads])
    for name, arm in results["arms"].items():
        timing = arm["cost"]["timings"].get("1", {})
        lines += _row(
            [
                name,
                _count(arm["cost"]["backbone_passes"]),
                _count(arm["cost"]["head_calls"]),
                f"{timing['seconds']:.3f}" if timing else "",
                f"{timing['real_time_factor']:.3f}" if timing else "",
                *_cells(arm["metrics"], metrics, more),
            ]
        )
    for name, control in results["controls"].items():
        lines += _row([name, "", "", "", "", *_cells(control["metrics"], metrics, more)])
    if results.get("kinds") and any(metric.name == "wer" for metric in metrics):
        lines += ["", "## WER by kind of sentence", "", *_kinds(results["kinds"])]
    if results.get("unheard"):
        left_out = {item for items in results["unheard"].values() for item in items}
        words = ", ".join(sorted(results["unheard"]))
        share = f"{len(left_out)} of {results['settings']['items']} sentences"
        lines += ["", f"{share} have no word error: the recogniser cannot hear {words}."]
    lines += ["", f"## Worse than `{results['settings']['reference']}` by", ""]
    lines += _rows(["arm", *(metric.title for metric in metrics)])
    for name, arm in results["arms"].items():
        if name != results["settings"]["reference"]:
            lines += _row([name, *(_difference(arm["against_reference"].get(metric.name)) for metric in metrics)])
    lines += ["", "## Worse than the best training-free arm of no greater cost by", ""]
    lines += _rows(["arm", *(metric.title for metric in metrics)])
    for name, arm in results["arms"].items():
        entries = [arm["against_best_training_free"].get(metric.name) for metric in metrics]
        if any(entries):
            cells = [f"{_difference(entry)} ({entry['arm']})" if entry else "" for entry in entries]
            lines += _row([name, *cells])
    lines += ["", "Below 0 is better. An asterisk: the 95% interval excludes 0.", "", "## Do the metrics work?", ""]
    for name, checks in results["checks"].items():
        said = ", ".join(
            f"{check['better']} {'<' if check['holds'] else '**not** <'} {check['worse']}" for check in checks
        )
        lines.append(f"- {name}: {said or 'nothing to compare'}")
    return "\n".join(lines) + "\n"


def _kinds(kinds: dict) -> list[str]:
    """One row a kind, one column an arm or control with a word error."""
    names = [name for name, found in next(iter(kinds.values())).items() if "wer" in found]
    lines = _rows(["kind", "sentences", *names])
    for kind, arms in kinds.items():
        counts = {found["wer"]["n"] for found in arms.values() if "wer" in found}
        cells = [_estimate(arms[name].get("wer")) for name in names]
        lines += _row([kind, str(max(counts, default=0)), *cells])
    return lines


def _about(results: dict) -> str:
    settings = results["settings"]
    return (
        f"{settings['items']} sentences, seeds {', '.join(map(str, settings['seeds']))}, model `{settings['model']}`, "
        f"{settings['device']}, {settings['dtype']}, lengths: {settings['durations']}. 95% bootstrap intervals over "
        f"sentences; seconds of sampling one sentence, RTF with the vocoder.{_recognizer(settings)}"
    )


def _recognizer(settings: dict) -> str:
    # A folder of before recognisers were named, or without a word error, has none.
    return f" Recogniser: {settings['recognizer']}." if settings.get("recognizer") else ""


def _arrow(metric: Metric) -> str:
    return {True: " ↑", False: " ↓", None: " → 1"}[metric.higher_is_better]


def _rows(heads: list[str]) -> list[str]:
    return [*_row(heads), *_row(["---"] * len(heads))]


def _row(cells: list[str]) -> list[str]:
    return [f"| {' | '.join(cells)} |"]


def _cells(figures: dict, metrics: Sequence[Metric], more: Iterable[str]) -> list[str]:
    return [_estimate(figures.get(name)) for name in [*(metric.name for metric in metrics), *more]]


def _count(number: int | None) -> str:
    return "" if number is None else str(number)


def _estimate(figure: dict | None) -> str:
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]" if figure else ""


def _difference(figure: dict | None) -> str:
    if not figure or "value" not in figure:
        return ""
    star = "*" if figure["low"] > 0 or figure["high"] < 0 else ""
    return f"{figure['value']:+.3f}{star} [{figure['low']:+.3f}, {figure['high']:+.3f}]"


def draw_fronts(results: dict, metrics: Sequence[Metric], path: str | os.PathLike) -> None:
    """A PNG with a panel a metric: the figure over the cost, and the front of arms that none betters at their cost."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from dtm_hf.evaluation.summary import badness

    metrics = [metric for metric in metrics if any(metric.name in arm["metrics"] for arm in results["arms"].values())]
    columns = min(3, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = Figure(figsize=(5.4 * columns, 4.0 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    timed = all(arm["cost"]["timings"] for arm in results["arms"].values())
    for axes, metric in zip(panels, metrics, strict=False):
        points = []
        for name, arm in results["arms"].items():
            found = arm["metrics"].get(metric.name)
            if found is None:
                continue
            cost = arm["cost"]["timings"]["1"]["real_time_factor"] if timed else arm["cost"]["backbone_passes"]
            if cost is None:
                continue
            points.append((cost, found["value"], name))
            colour = _COLOURS.get(name.split("-")[0], _OTHER_COLOUR)
            error = [[max(found["value"] - found["low"], 0)], [max(found["high"] - found["value"], 0)]]
            axes.errorbar(cost, found["value"], yerr=error, fmt="o", markersize=4, linewidth=1, color=colour)
            axes.annotate(name, (cost, found["value"]), (3, 3), textcoords="offset points", fontsize="x-small")
        if not points:
            axes.set_visible(False)
            continue
        front, best = [], float("inf")
        for cost, value, _ in sorted(points):
            if badness(metric, value) < best:
                best = badness(metric, value)
                front.append((cost, value))
        axes.plot(*zip(*front, strict=True), color="black", linewidth=0.8, alpha=0.6, drawstyle="steps-post")
        for name, control in results["controls"].items():
            if name != "white-noise" and metric.name in control["metrics"]:
                style = {"recording": "-", "vocoded": "--"}[name]
                axes.axhline(
                    control["metrics"][metric.name]["value"], color="tab:green", linewidth=0.8, linestyle=style
                )
        axes.set_xscale("log")
        # Room for the names at the right, and costs as they are said.
        axes.set_xlim(right=1.8 * max(cost for cost, _, _ in points))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("{x:g}")
        axes.xaxis.set_tick_params(which="both", labelsize="small")
        axes.set_xlabel("real time factor" if timed else "backbone passes")
        axes.set_title(metric.title + _arrow(metric), fontsize="medium")
    for axes in panels[len(metrics) :]:
        axes.set_visible(False)
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


def draw_steps(errors: dict[str, dict[str, list[float]]], title: str, path: str | os.PathLike) -> None:
    """A PNG of [`step_errors`]: the mel distance of where each step points, over the time it starts at."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for index, (name, found) in enumerate(errors.items()):
        # There are ten colours.
        style = ("-", "--", ":", "-.")[index // 10 % 4]
        axes.plot(found["times"], found["distances"], style, marker="o", markersize=3, linewidth=1, label=name)
    axes.set_xlabel("time t at the start of the step (0: noise)")
    axes.set_ylabel(title)
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110)


def draw_mels(named: dict[str, object], path: str | Path) -> None:
    """A PNG of one sentence's log-mels, `{arm or control: (N, M)}`, one below the other."""
    from dtm_hf.pictures import save_mel_picture

    save_mel_picture(list(named.values()), path, titles=list(named))
