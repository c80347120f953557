"""The page of `fwagent report`: HTML that needs nothing but itself, for screens of any width, light or dark. Pure.

Nothing that comes from the database is trusted: `plain` has all of it on its way into the page, and the page forbids
itself scripts and whatever else might be loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from agent.report import axes
from agent.report.charts import FULL, NARROW, WIDE, Bar, Column, Line, Size, columns, lines, rows
from agent.report.figures import nothing_yet
from agent.report.style import STYLE
from agent.report.words import day, minute, number, plain, span
from fwcore.documents import parse_time

Document = dict[str, Any]
_Chart = Callable[[Size], str]

_DAY = 86400


def page(document: Document) -> str:
    """Return the page of what `figures` has made."""
    body = _nothing(document) if nothing_yet(document) else _sections(document)
    whose = f"worker {document['worker']}" if document["worker"] is not None else "all workers"
    # What is forbidden here cannot be brought in by a name in the database either.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="color-scheme" content="light dark">
<title>fwagent report: {plain(whose)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<p class="kind">fwagent report</p>
<h1>{plain(whose[0].upper() + whose[1:])}</h1>
<p>{plain(document["database"])} · {_when(document)}</p>
</header>
<main>
{body}
</main>
<footer>
<p>Made by <code>fwagent report</code> from the launches in the database: each attempt to run a Firework counts,
those that were run again, too. Times are UTC.</p>
</footer>
</body>
</html>
"""


def _when(document: Document) -> str:
    return f"{minute(_moment(document['since']))} to {minute(_moment(document['until']))} UTC"


def _moment(text: str) -> datetime:
    found = parse_time(text)
    assert found is not None
    return found


def _nothing(document: Document) -> str:
    return f"""<section class="nothing">
<h2>Nothing yet</h2>
<p>No launch has been reserved, has run or has ended in this time.</p>
<p>{_fireworks(document)}</p>
<p>A longer time: <code>fwagent report --since 90d</code>. All workers: <code>--any-worker</code>. Is everything as it
should be? <code>fwagent doctor</code>, <code>fwagent status</code>.</p>
</section>"""


def _fireworks(document: Document) -> str:
    states = [f"{number(n)} {plain(state)}" for state, n in document["fireworks"].items()]
    return f"Fireworks in the database now: {', '.join(states) or 'none'}."


def _sections(document: Document) -> str:
    return "\n".join(
        (
            _tiles(document),
            '<div class="charts">',
            _throughput(document),
            _states(document),
            _latency(document["latency"]),
            _waiting(document["waiting"]),
            _running(document["running"]),
            _reasons(document["failures"]),
            _names(document["failures"]),
            "</div>",
        )
    )


def _tiles(document: Document) -> str:
    launches = document["launches"]
    completed, fizzled = launches["COMPLETED"], launches["FIZZLED"]
    ended = completed + fizzled
    part = f"{100 * completed / ended:.1f} % of what ended" if ended else "none ended"
    taken_back = launches["taken_back"]
    back = f"{number(taken_back)} reservations taken back" if taken_back else "reserved"
    tiles = [
        _rate(document, ended),
        ("COMPLETED", number(completed), part),
        ("FIZZLED", number(fizzled), "each attempt counts"),
        ("In the queue now", number(launches["RESERVED"]), back),
        ("Running now", number(launches["RUNNING"]), "as the database has it"),
        _median("Queue wait", document["waiting"]),
        _median("Run time", document["running"]),
        _median("Into the database", document["latency"]),
    ]
    cells = [
        f'<li><span class="what">{what}</span> <strong>{value}</strong> '
        f'<span class="more">{more}</span></li>'
        for what, value, more in tiles
    ]
    return f'<ul class="tiles">{"".join(cells)}</ul>\n<p class="now">{_fireworks(document)}</p>'


def _rate(document: Document, ended: int) -> tuple[str, str, str]:
    seconds = (_moment(document["until"]) - _moment(document["since"])).total_seconds()
    unit, length = ("day", _DAY) if seconds >= 2 * _DAY else ("hour", 3600)
    rate = ended * length / max(seconds, 1.0)
    told = number(rate) if rate >= 10 else f"{rate:.2g}"
    return f"Ended per {unit}", told, f"{number(ended)} in all"


def _median(what: str, found: Document) -> tuple[str, str, str]:
    most = f"median; 90 % below {span(found['p90'])}" if found["p90"] is not None else "median"
    return what, span(found["median"]), most


def _section(
    title: str, words: str, legend: Sequence[str], drawn: str, table: str, kind: str = ""
) -> str:
    """Return a chart with what belongs to it. Four parts, always: those of neighbours are set level."""
    keys = "".join(f'<li><span class="key {name.lower()}"></span>{name}</li>' for name in legend)
    listed = f'<ul class="legend">{keys}</ul>' if keys else ""
    opened = f'<section class="{kind}">' if kind else "<section>"
    figure = f"<figure>{listed}{drawn}</figure>"
    return f"{opened}\n<h2>{title}</h2>\n<p>{words}</p>\n{figure}\n<div>{table}</div>\n</section>"


def _drawn(chart: _Chart, *more: Size) -> str:
    return "".join(chart(size) for size in (NARROW, WIDE, *more))


def _empty(words: str) -> str:
    return f'<p class="empty">{words}</p>'


def _table(titles: Sequence[str], data: Iterable[Sequence[object]]) -> str:
    """Return a chart's numbers as a table; the first cell of a row names it."""
    head = "".join(f'<th scope="col">{plain(title)}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{plain(first)}</th>'
        + "".join(f"<td>{plain(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in data
    )
    return (
        f"<details><summary>As a table</summary><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></details>"
    )


def _throughput(document: Document) -> str:
    steps, seconds = document["throughput"], document["step_seconds"]
    names = [_step_name(_moment(each["from"]), seconds) for each in steps]
    title, states = "Throughput", ("COMPLETED", "FIZZLED")
    words = f"Launches that ended, by the time that the job wrote: per {_step_words(seconds)}."
    if not any(each[state] for each in steps for state in states):
        return _section(title, words, (), _empty("No launch has ended in this time."), "", "whole")
    data = [
        Column([(s.lower(), each[s], f"{name}: {number(each[s])} {s}") for s in states])
        for name, each in zip(names, steps, strict=True)
    ]
    ticks = axes.of_time([_moment(each["from"]) for each in steps], seconds)
    drawn = _drawn(lambda size: columns(size, title, data, ticks), FULL)
    cells = [
        (name, *(number(each[s]) for s in states)) for name, each in zip(names, steps, strict=True)
    ]
    return _section(title, words, states, drawn, _table(["From (UTC)", *states], cells), "whole")


def _states(document: Document) -> str:
    rows_, seconds = document["states"], document["step_seconds"]
    title, states = "In the queue and running", ("RESERVED", "RUNNING")
    words = "Launches in each state at the end of each step, reckoned backwards from those of now."
    if not any(each[state] for each in rows_ for state in states):
        none = "No launch was in the queue, or ran, at the end of a step: --since with less time has shorter ones."
        return _section(title, words, (), _empty(none), "")
    data = [Line(state, [each[state] for each in rows_]) for state in states]
    names = [minute(_moment(each["at"])) for each in rows_]
    told = [
        f"{name}: {', '.join(f'{number(each[s])} {s}' for s in states)}"
        for name, each in zip(names[1:], rows_[1:], strict=True)
    ]
    ticks = axes.of_time([_moment(each["at"]) for each in rows_[:-1]], seconds)
    drawn = _drawn(lambda size: lines(size, title, data, told, ticks))
    cells = [
        (name, *(number(each[s]) for s in states)) for name, each in zip(names, rows_, strict=True)
    ]
    return _section(title, words, states, drawn, _table(["At (UTC)", *states], cells))


def _step_words(seconds: float) -> str:
    return {60: "minute", 3600: "hour", _DAY: "day", 7 * _DAY: "week"}.get(
        int(seconds), span(seconds).replace(" d", " days").replace(" h", " hours")
    )


def _step_name(moment: datetime, seconds: float) -> str:
    if seconds < _DAY:
        return minute(moment)
    if seconds == _DAY:
        return f"{day(moment)} {moment.year}"
    last = moment + timedelta(seconds=seconds - _DAY)
    return f"{day(moment)} to {day(last)} {last.year}"


def _latency(found: Document) -> str:
    some = (
        f" A sample of {number(found['sampled'])} out of {number(found['recovered'])} offline runs."
        if found["sampled"] < found["recovered"]
        else ""
    )
    words = (
        "From the end of a run, as the compute node wrote it into its final report, until it stood in the database, as "
        "its offline run tells. Clocks that differ are in it; jobs that were lost are not." + some
    )
    return _durations("From the final report into the database", words, found, "latency")


def _waiting(found: Document) -> str:
    words = "From the reservation until the job began, of launches that began in this time."
    return _durations("Waiting in the queue", words, found, "reserved")


def _running(found: Document) -> str:
    words = "From the first task until the end, of launches that ended in this time."
    return _durations("Run times", words, found, "running")


def _durations(title: str, words: str, found: Document, kind: str) -> str:
    bins = found["bins"]
    if not bins:
        return _section(title, words, (), _empty("There is none in this time."), "")
    names = [_bin_name(each) for each in bins]
    data = [
        Column([(kind, each["count"], f"{name}: {number(each['count'])}")])
        for name, each in zip(names, bins, strict=True)
    ]
    marks = [
        axes.mark(bins, found["median"], f"median {span(found['median'])}"),
        axes.mark(bins, found["p90"], f"90 % {span(found['p90'])}"),
    ]
    ticks = axes.of_durations(bins)
    drawn = _drawn(lambda size: columns(size, title, data, ticks, marks))
    cells = [(name, number(each["count"])) for name, each in zip(names, bins, strict=True)]
    return _section(title, words, (), drawn, _table(["Duration", "Launches"], cells))


def _bin_name(each: Document) -> str:
    if each["to"] is None:
        return f"{span(each['from'])} and more"
    return (
        f"{span(each['from'])} to {span(each['to'])}"
        if each["from"]
        else f"below {span(each['to'])}"
    )


def _reasons(found: Document) -> str:
    title = "Failures by reason"
    words = (
        "What the scheduler said of a lost job, or the last line of the exception. Directories and long numbers are "
        "left out."
    )
    if not found["count"]:
        return _section(title, words, (), _empty("Nothing has FIZZLED in this time."), "")
    bars = [Bar(each["reason"], each["count"], "fizzled") for each in found["reasons"]]
    bars += _others(found["other_reasons"], "other reasons")
    cells: list[tuple[str, str, str]] = [
        (each["reason"], ", ".join(map(_named, each["names"])), number(each["count"]))
        for each in found["reasons"]
    ]
    cells += [("other reasons", "", number(n)) for n in (found["other_reasons"],) if n]
    table = _table(["Reason", "Fireworks, the worst first", "Launches"], cells)
    return _section(title, words, (), _drawn(lambda size: rows(size, title, bars)), table)


def _names(found: Document) -> str:
    title, words = "Failures by Firework", "FIZZLED launches by the name of their Firework."
    if not found["count"]:
        return _section(title, words, (), _empty("Nothing has FIZZLED in this time."), "")
    bars = [Bar(_named(each["name"]), each["count"], "fizzled") for each in found["names"]]
    bars += _others(found["other_names"], "other names")
    table = _table(["Firework", "Launches"], [(bar.words, number(bar.count)) for bar in bars])
    return _section(title, words, (), _drawn(lambda size: rows(size, title, bars)), table)


def _others(count: int, words: str) -> list[Bar]:
    return [Bar(words, count, "others")] if count else []


def _named(name: str) -> str:
    return name or "(without a name)"
