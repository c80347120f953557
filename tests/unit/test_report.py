"""The page of `fwagent report`: from counts to figures, to charts, to HTML."""

import re
from collections import Counter
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from itertools import combinations

import pytest

from agent.report import axes
from agent.report.figures import distribution, figures, reason
from agent.report.page import page
from agent.report.style import DARK, LIGHT
from agent.report.words import plain, short, span
from fwcore.tally import EDGES, STEPS, Failure, Period, Tally, period
from tests.support.figures import HOSTILE, UNTIL, sample, tally_of

DAY = timedelta(days=1)
BEGIN = datetime(2026, 11, 1, tzinfo=timezone.utc)


def drawn(found, days=3, worker="w"):
    return figures(Period(BEGIN, BEGIN + days * DAY, DAY), found, worker=worker, where="db")


# ----------------------------------------------------------------------------------------- periods


@pytest.mark.parametrize("days", [0.0001, 0.02, 0.5, 1, 7, 30, 90, 365, 800, 4000, 40_000])
def test_a_period_has_few_steps_and_holds_both_ends(days):
    since = UNTIL - timedelta(days=days)
    found = period(since, UNTIL)
    assert found.begin <= since
    assert found.start(found.count - 1) < UNTIL <= found.start(found.count)
    assert found.count <= STEPS
    assert found.begin.second == 0
    if found.width >= DAY:
        assert (found.begin.hour, found.begin.minute) == (0, 0)


@pytest.mark.parametrize("days", [0.0001, 0.02, 0.5, 1, 7, 30, 90, 365, 800, 4000, 40_000])
def test_an_axis_of_time_has_words(days):
    found = period(UNTIL - timedelta(days=days), UNTIL)
    moments = [found.start(step) for step in range(found.count)]
    ticks = axes.of_time(moments, found.width.total_seconds())
    assert 1 <= len(ticks) <= 7
    # Where a day might be of more than one year, the year is told.
    assert all(re.search(r" \d{4}$", tick.text) for tick in ticks) == (days >= 365)


# ----------------------------------------------------------------------------------------- figures


def test_states_are_reckoned_backwards_from_now():
    # One was reserved on the first day, began on the second and runs; one came and ended on the second.
    found = Tally(
        reserved=Counter({0: 1, 1: 1}),
        started=Counter({1: 2}),
        left=Counter({1: 2}),
        stopped=Counter({1: 1}),
        ended=Counter({(1, "COMPLETED"): 1}),
        now=Counter(RUNNING=1),
    )
    states = drawn(found)["states"]
    assert [each["RESERVED"] for each in states] == [0, 1, 0, 0]
    assert [each["RUNNING"] for each in states] == [0, 0, 1, 1]
    assert states[0]["at"] == "2026-11-01T00:00:00+00:00"


def test_what_ended_before_is_not_counted():
    found = Tally(ended=Counter({(-1, "COMPLETED"): 5, (2, "COMPLETED"): 1, (0, "FIZZLED"): 2}))
    document = drawn(found)
    assert [each["COMPLETED"] for each in document["throughput"]] == [0, 0, 1]
    assert document["launches"]["COMPLETED"] == 1
    assert document["launches"]["FIZZLED"] == 2


def test_a_distribution_has_all_bins_between_and_its_quantiles():
    found = distribution({1.0: 50, 3.0: 40, 60.0: 10})
    assert found["count"] == 100
    assert [each["from"] for each in found["bins"]] == [edge for edge in EDGES if 1 <= edge <= 60]
    assert found["median"] == 1.5
    assert found["p90"] == 5
    assert distribution({EDGES[-1]: 1})["bins"] == [{"from": EDGES[-1], "to": None, "count": 1}]
    assert distribution({}) == {"count": 0, "median": None, "p90": None, "bins": []}


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (
            Failure("TIMEOUT", "n", lost=True, exit_code="0", signal="9"),
            "TIMEOUT, signal 9, without",
        ),
        (Failure("", "n", lost=True), "lost: job gone, without a report"),
        (Failure("OSError: [Errno 2] no '/a/b.c/d e/x'", "n"), "OSError: [Errno 2] no '.../d e/x'"),
        (Failure("E: at 0x7fa3 of 123456", "n"), "E: at # of #"),
        (Failure("E: Return code: [137]", "n"), "E: Return code: [137]"),
        (Failure(" \n", "n"), "no reason is stored with the launch"),
    ],
)
def test_a_reason_is_the_same_for_every_run(failure, words):
    assert words in reason(failure)


def test_rare_failures_are_others():
    failures = {Failure(f"E{n:c}", f"fw{n}"): 200 - n for n in range(65, 95)}
    total = sum(failures.values()) + 1000
    found = drawn(Tally(ended=Counter({(0, "FIZZLED"): total}), failures=Counter(failures)))
    told = found["failures"]
    assert told["reasons"][0] == {"reason": "EA", "lost": False, "count": 135, "names": ["fw65"]}
    assert sum(each["count"] for each in told["reasons"]) + told["other_reasons"] == total
    assert sum(each["count"] for each in told["names"]) + told["other_names"] == total
    assert len(told["reasons"]) == 12


# -------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.05, "50 ms"),
        (1.44, "1.4 s"),
        (90, "1.5 min"),
        (86400 * 30, "30 d"),
        (None, "-"),
    ],
)
def test_spans(seconds, words):
    assert span(seconds) == words


def test_numbers_on_an_axis():
    assert [short(n) for n in (0, 999, 1500, 20_000, 3_000_000)] == [
        "0",
        "999",
        "1.5k",
        "20k",
        "3M",
    ]


def test_foreign_text_cannot_leave_its_place():
    assert plain("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert plain("a\x00\n\N{RIGHT-TO-LEFT OVERRIDE}") == "a" + 3 * "\N{REPLACEMENT CHARACTER}"


# --------------------------------------------------------------------------------------------- page


class _Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.attributes, self.texts = [], [], []
        self.untitled, self._inside = [], []

    def handle_starttag(self, tag, attrs):
        if tag == "title" and self._inside:
            self._inside[-1][1] = True
        if tag != "meta":
            self._inside.append([tag, False, dict(attrs)])
        self.found.append(tag)
        self.attributes += [(tag, *each) for each in attrs]

    def handle_endtag(self, tag):
        opened, titled, attributes = self._inside.pop()
        assert opened == tag, f"{opened} is closed by {tag}"
        of_a_chart = any(each[0] == "svg" for each in self._inside)
        if of_a_chart and tag in ("rect", "polyline") and not titled:
            self.untitled.append(attributes)

    def handle_data(self, data):
        self.texts.append(data)


TAGS = set(
    re.findall(
        r"\w+",
        "html head meta title style body header h1 p main ul li span strong div section h2 svg line text rect "
        "polyline details summary table thead tbody tr th td footer figure code",
    )
)


@pytest.fixture(scope="module")
def parsed():
    document = sample()
    document["worker"] = HOSTILE
    found = _Tags()
    found.feed(page(document))
    found.close()
    return found


@pytest.mark.parametrize(
    ("days", "ended", "rate"),
    [
        (30, 3000, "day</span> <strong>98"),
        (800, 20, "day</span> <strong>0.025"),
        (1, 48, "hour</span> <strong>2"),
    ],
)
def test_the_rate_is_told_per_day_or_per_hour(days, ended, rate):
    assert f"Ended per {rate}</strong>" in page(sample(days, ended))


def test_names_are_text_and_nothing_else(parsed):
    assert set(parsed.found) <= TAGS
    assert any('<script>alert("x")</script>' in text for text in parsed.texts)
    # What is not shown in a text is not there.
    assert not any(set("\x00\N{RIGHT-TO-LEFT OVERRIDE}") & set(text) for text in parsed.texts)


def test_nothing_is_loaded(parsed):
    assert {name for _tag, name, _value in parsed.attributes} <= {
        *("lang", "charset", "name", "content", "http-equiv", "class", "scope", "role"),
        *("aria-label", "viewBox", "viewbox", "points"),
        *("x", "y", "x1", "x2", "y1", "y2", "width", "height"),
    }
    text = page(sample())
    assert not re.search(r"https?:|//[a-z]|url\(|@import|<script|<link|<img|javascript:", text)


def test_every_mark_has_a_title_and_every_chart_a_table(parsed):
    assert parsed.untitled == []
    assert parsed.found.count("svg") == 15
    assert parsed.found.count("table") == 7


def test_numbers_of_a_chart_are_in_its_table():
    document = sample(5, 100)
    text = page(document)
    table = text[text.index("<table>") : text.index("</table>")]
    cells = [int(cell) for cell in re.findall(r"<td>(\d+)</td>", table)]
    told = [each[state] for each in document["throughput"] for state in ("COMPLETED", "FIZZLED")]
    assert cells == told


def test_nothing_yet_says_so():
    span_, _found = tally_of(30, 0)
    empty = Tally(fireworks=Counter(READY=3))
    text = page(figures(span_, empty, worker=None, where="db"))
    assert "Nothing yet" in text
    assert "3 READY" in text
    assert "All workers" in text
    assert "<svg" not in text


def test_a_period_in_which_nothing_ended_has_no_empty_axes():
    text = page(drawn(Tally(now=Counter(RESERVED=1), reserved=Counter({1: 1}))))
    assert "No launch has ended in this time." in text
    assert "Nothing has FIZZLED in this time." in text
    assert text.count("<svg") == 2


# ------------------------------------------------------------------------------------------ colours

# How colours are seen with no red, green or blue cones: Machado, Oliveira, Fernandes 2009, severity 1.
_BLIND = {
    "none": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}


def _linear(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def _times(matrix, vector):
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def _oklab(colour, kind):
    seen = [min(1, max(0, part)) for part in _times(_BLIND[kind], _linear(colour))]
    cones = _times(
        (
            (0.4122214708, 0.5363325363, 0.0514459929),
            (0.2119034982, 0.6806995451, 0.1073969566),
            (0.0883024619, 0.2817188376, 0.6299787005),
        ),
        seen,
    )
    return _times(
        (
            (0.2104542553, 0.7936177850, -0.0040720468),
            (1.9779984951, -2.4285922050, 0.4505937099),
            (0.0259040371, 0.7827717662, -0.8086757660),
        ),
        [part ** (1 / 3) for part in cones],
    )


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("kind", _BLIND)
@pytest.mark.parametrize("together", [("completed", "fizzled"), ("reserved", "running")])
def test_colours_of_a_chart_differ_for_everybody(colours, kind, together):
    for first, second in combinations(together, 2):
        ends = zip(_oklab(colours[first], kind), _oklab(colours[second], kind), strict=True)
        assert sum((a - b) ** 2 for a, b in ends) ** 0.5 > 0.1
