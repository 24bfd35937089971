"""The page's charts, drawn by Vega-Altair and made SVG by vl-convert when the page is written.

Colours are CSS variables of the page, so that one drawing serves day, night and paper. Each chart
is drawn twice, for wide pages and for phones: scaled letters would be too small to read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from soup.choosing.leaderboard import Step
from soup.choosing.likeness import Matrix
from soup.choosing.lines import Line
from soup.choosing.side_by_side import SideBySide
from soup.reporting.history import Past
from soup.watching.lines import shortened
from soup.words import shown

WIDE, NARROW = 760, 350  # pixels

INK, SOFT, RULE = "var(--ink)", "var(--soft)", "var(--rule)"
GOOD, BAD, MAIN = "var(--good)", "var(--bad)", "var(--main)"
SERIES = [MAIN, GOOD, BAD, "var(--third)", SOFT]

CATEGORIES = 24
"""Categories in the chart; the table has all of them."""


@dataclass(frozen=True)
class Chart:
    """One drawing in two widths, as SVG; ``words`` says what it shows to whoever cannot see it."""

    wide: str
    narrow: str
    words: str


def drawn(make: Callable[[int], Any], words: str) -> Chart:
    """A chart for both widths."""
    return Chart(_svg(make(WIDE), words), _svg(make(NARROW), words), words)


def _svg(chart: Any, words: str) -> str:
    spec = json.loads(chart.to_json(validate=False))
    text = vl_convert.vegalite_to_svg(spec)
    head, rest = text.split(">", 1)
    label = words.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return f'{head} role="img" aria-label="{label}">{rest}'


def _styled(chart: Any, width: int) -> Any:
    """Everything that all charts have in common."""
    axis = {
        "labelColor": INK, "titleColor": SOFT, "gridColor": RULE, "domainColor": RULE,
        "tickColor": RULE, "labelFontSize": 12, "titlePadding": 8, "titleFontSize": 12,
        "titleFontWeight": "normal", "labelLimit": width * 2 // 5,
    }  # fmt: skip
    legend = {
        "orient": "top", "title": None, "labelColor": INK, "labelFontSize": 12, "columnPadding": 28,
        "columns": 2 if width < WIDE else 5, "symbolOpacity": 1, "symbolStrokeWidth": 0,
    }  # fmt: skip
    # Letters may be wider where the page is read than where they were measured: hence the room.
    return (
        chart.properties(
            width=width, background="transparent",
            autosize=alt.AutoSizeParams(type="fit-x", contains="padding"),
            padding={"left": 14, "right": 4, "top": 2, "bottom": 2},
        )
        .configure_view(stroke=None)
        .configure_axis(**axis)
        .configure_legend(**legend)
    )  # fmt: skip


def _rows(values: Sequence[dict[str, Any]]) -> Any:
    return alt.Data(values=list(values))


def _name(text: str, width: int) -> str:
    return shortened(shown(text), 16 if width < WIDE else 40)


def _distinct(names: Sequence[str], width: int) -> list[str]:
    """Short names, each another one; a number tells those apart that shortening made equal."""
    short = [_name(name, width) for name in names]
    return [name if short.count(name) == 1 else f"{k}. {name}" for k, name in enumerate(short, 1)]


def path(steps: Sequence[Step]) -> Chart:
    """The recipe's decisions from top to bottom: what was tried, its interval, the best so far."""

    def make(width: int) -> Any:
        rows: list[dict[str, Any]] = []
        best = steps[0].mean or 0.0
        names = _distinct(
            [s.tried if k == 0 else f"+ {s.tried}" for k, s in enumerate(steps)], width
        )
        for name, step in zip(names, steps, strict=True):
            state = "kept" if step.kept else "stopped early" if step.stopped else "not kept"
            row: dict[str, Any] = {"name": name, "mean": step.mean, "state": state}
            row |= {"before": best} if rows else {}
            told = step.difference
            if told is not None and told.low is not None and told.high is not None:
                row |= {"low": best + told.low, "high": best + told.high}
            if step.kept and step.mean is not None:
                best = step.mean
            rows.append(row | {"best": best, "words": f"{name}: {step.mean}, {state}"})
        y = alt.Y("name:N", sort=None, title=None, scale=alt.Scale(domain=names))
        scale = alt.Scale(zero=False, nice=True)
        base = alt.Chart(_rows(rows))
        so_far = base.mark_tick(thickness=2, size=22, color=SOFT).encode(
            x=alt.X("before:Q", scale=scale), y=y
        )
        ranges = base.mark_rule(strokeWidth=2, opacity=0.55, color=SOFT).encode(
            x=alt.X("low:Q", scale=scale, title="mean of the benchmarks (0–100)",
                    axis=alt.Axis(tickCount=width // 90)),
            x2="high:Q", y=y,
        )  # fmt: skip
        points = base.mark_point(filled=True, size=110, opacity=1).encode(
            x=alt.X("mean:Q", scale=scale), y=y,
            color=alt.Color("state:N", scale=_scale(["kept", "not kept"], [GOOD, BAD])),
            shape=alt.Shape("state:N", scale=_scale(["kept", "not kept"], ["circle", "diamond"])),
            description="words:N",
        )  # fmt: skip
        return _styled((so_far + ranges + points).properties(height=alt.Step(28)), width)

    kept = sum(step.kept for step in steps[1:])
    words = (
        f"Chart of the path: {len(steps) - 1} trials, {kept} kept. The table below has its numbers."
    )
    return drawn(make, words)


def _scale(domain: Sequence[Any], values: Sequence[Any]) -> Any:
    return alt.Scale(domain=list(domain), range=list(values))


def gains(found: SideBySide, held: SideBySide | None) -> Chart:
    """The soup against the best single: per benchmark and category a point and its interval."""

    def make(width: int) -> Any:
        rows: list[dict[str, Any]] = []

        def add(name: str, kind: str, told: Any) -> None:
            if told.low is not None:
                state = "within the noise" if told.noise else "gain" if told.gain > 0 else "loss"
                words = f"{name}: {told.gain:+.2f}, {told.low:+.2f} to {told.high:+.2f}"
                rows.append(
                    {"name": name, "kind": kind, "gain": told.gain, "low": told.low,
                     "high": told.high, "state": state, "words": words}
                )  # fmt: skip

        room = CATEGORIES
        for one in found.benchmarks:
            add(_name(one.name, width), "benchmark", one.difference)
            for category in one.categories[:room]:
                add(f"– {_name(category.name, width)} ({_name(one.name, width)})", "category",
                    category.difference)  # fmt: skip
            room -= min(room, len(one.categories))
        if len(found.benchmarks) > 1:
            add("mean", "mean", found.mean.difference)
        for one in held.benchmarks if held else ():
            add(f"{_name(one.name, width)} (hold-out)", "hold-out", one.difference)
        y = alt.Y("name:N", sort=None, title=None)
        base = alt.Chart(_rows(rows))
        zero = (
            alt.Chart(_rows([{"zero": 0}]))
            .mark_rule(color=SOFT, strokeWidth=1.5)
            .encode(x="zero:Q")
        )
        ranges = base.mark_rule(strokeWidth=2, color=SOFT).encode(
            x=alt.X(
                "low:Q",
                title="points gained over the best single member",
                axis=alt.Axis(tickCount=width // 60),
            ),
            x2="high:Q",
            y=y,
        )
        states = ["gain", "within the noise", "loss"]
        points = base.mark_point(filled=True, opacity=1, size=90).encode(
            x="gain:Q", y=y, description="words:N",
            color=alt.Color("state:N", scale=_scale(states, [GOOD, SOFT, BAD])),
            shape=alt.Shape("state:N", scale=_scale(states, ["triangle-up", "circle", "diamond"])),
        )  # fmt: skip
        return _styled((zero + ranges + points).properties(height=alt.Step(26)), width)

    return drawn(make, "Chart of gains with 95% intervals. The table below has its numbers.")


def matrix(names: Sequence[str], values: Matrix, percent: bool, what: str) -> Chart:
    """A square for every two members: its depth is the value's size, its colour the sign."""

    def make(width: int) -> Any:
        count = len(names)
        short = [f"{k} {name}" for k, name in enumerate((_name(n, width) for n in names), 1)]
        largest = max(abs(values[i][j]) for i in range(count) for j in range(count) if i != j) or 1
        rows = []
        for i in range(count):
            for j in range(count):
                if i == j:
                    continue
                value = values[i][j]
                text = f"{100 * value:.0f}%" if percent else f"{value:.2f}".replace("-", "−")
                rows.append(
                    {"row": short[i], "column": str(j + 1), "text": text,
                     "size": abs(value) / largest, "sign": "+" if value >= 0 else "−",
                     "words": f"{names[i]} and {names[j]}: {text}"}
                )  # fmt: skip
        base = alt.Chart(_rows(rows)).encode(
            x=alt.X("column:N", sort=None, title=None,
                    scale=alt.Scale(domain=[str(k + 1) for k in range(count)]),
                    axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False)),
            y=alt.Y("row:N", sort=None, title=None, scale=alt.Scale(domain=short),
                    axis=alt.Axis(domain=False, ticks=False)),
        )  # fmt: skip
        squares = base.mark_rect(cornerRadius=3).encode(
            color=alt.Color("sign:N", scale=_scale(["+", "−"], [MAIN, BAD]), legend=None),
            opacity=alt.Opacity("size:Q", scale=alt.Scale(domain=[0, 1], range=[0.06, 0.6]),
                                legend=None),
            description="words:N",
        )  # fmt: skip
        numbers = base.mark_text(fontSize=11 if width < WIDE else 13, color=INK).encode(
            text="text:N"
        )
        fits = count <= (7 if width < WIDE else 16)
        layered = squares + numbers if fits else squares
        # A square's own width, as far as there is room: few members make no posters.
        size = min(width, 500, count * 64 + width // 3)
        return _styled(layered.properties(height=alt.Step(min(34, 700 // count))), size)

    return drawn(make, f"Map of {what} of every two of {len(names)} members.")


def line(found: Line) -> Chart:
    """The mean, and each benchmark, along the line between two members."""

    def make(width: int) -> Any:
        rows = []
        for point in found.points:
            scores = {"mean": point.mean, **(point.scores if len(point.scores) > 1 else {})}
            rows += [{"t": point.t, "of": _name(n, width), "score": s} for n, s in scores.items()]
        names = list(dict.fromkeys(row["of"] for row in rows))
        ends = [found.points[0], found.points[-1]]
        straight = [{"t": end.t, "score": end.mean} for end in ends]
        x = alt.X(
            "t:Q", title=f"share of {_name(found.second, width)}", axis=alt.Axis(format=".0%")
        )
        y = alt.Y("score:Q", title="score (0–100)", scale=alt.Scale(zero=False))
        dashed = (
            alt.Chart(_rows(straight)).mark_line(strokeDash=[4, 4], color=SOFT).encode(x=x, y=y)
        )
        colours = [SERIES[k % len(SERIES)] for k in range(len(names))]
        curves = alt.Chart(_rows(rows)).mark_line(
            point=alt.OverlayMarkDef(filled=True, size=45), strokeWidth=2
        ).encode(
            x=x, y=y, color=alt.Color("of:N", sort=None, scale=_scale(names, colours)),
            strokeDash=alt.StrokeDash(
                "of:N", sort=None, scale=_scale(names, [[1, 0], *[[5, 3]] * (len(names) - 1)])
            ),
        )  # fmt: skip
        return _styled((dashed + curves).properties(height=260), width)

    first, second = shown(found.first), shown(found.second)
    return drawn(make, f"Scores along the line from {first} to {second}.")


def history(past: Sequence[Past]) -> Chart:
    """The best single member and the soup of each run that asked the same questions."""

    def make(width: int) -> Any:
        rows = []
        for one in past:
            when = f"{one.time[:19]}Z"
            for what, mean in (("best single", one.best), (f"{one.command} soup", one.soup)):
                if mean is not None:
                    row: dict[str, Any] = {"time": when, "of": what, "mean": mean}
                    if mean is one.soup and one.best is not None and one.low is not None:
                        row |= {"low": one.best + one.low, "high": one.best + (one.high or 0)}
                    rows.append(row)
        names = list(dict.fromkeys(row["of"] for row in rows))
        colours = [SERIES[k % len(SERIES)] for k in range(len(names))]
        shapes = ["circle", "triangle-up", "diamond", "square", "cross"]
        days = {one.time[:10] for one in past}
        form = "%H:%M" if len(days) == 1 else "%d %b"
        axis = alt.Axis(tickCount=4, labelOverlap=True, format=form)
        x = alt.X("time:T", title="UTC", scale=alt.Scale(type="utc"), axis=axis)
        y = alt.Y("mean:Q", title="mean (0–100)", scale=alt.Scale(zero=False))
        marks = alt.Chart(_rows(rows)).encode(
            x=x, y=y, color=alt.Color("of:N", sort=None, scale=_scale(names, colours))
        )
        points = marks.mark_point(filled=True, size=70, opacity=1).encode(
            shape=alt.Shape("of:N", scale=_scale(names, [shapes[k % 5] for k in range(len(names))]))
        )
        ranges = marks.mark_rule(strokeWidth=2, opacity=0.35).encode(y="low:Q", y2="high:Q")
        lines = marks.mark_line(strokeWidth=1.5)
        return _styled((ranges + lines + points).properties(height=220), width)

    return drawn(make, f"Means of {len(past)} runs over time. The table below has its numbers.")
