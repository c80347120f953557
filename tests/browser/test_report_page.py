"""The page of `fwagent report` as Chromium shows it: wide and narrow, light and dark."""

import json

import pytest

from agent.report.figures import figures
from agent.report.page import page
from fwcore.tally import Tally
from tests.support.browser import browser
from tests.support.figures import sample, tally_of

# Looks at what is shown. Colours come as rgb(); opacity is not used for text.
LOOK = """(() => {
  const shown = (e) => e.getClientRects().length > 0;
  const where = (e) => { const r = e.getBoundingClientRect();
    return [r.left, r.top, r.right, r.bottom]; };
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(Number)
      .map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05); };
  const behind = (e) => { for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
  const texts = [...document.querySelectorAll('svg text')].filter(shown);
  const overlaps = [];
  for (const svg of [...document.querySelectorAll('svg')].filter(shown)) {
    const own = [...svg.querySelectorAll('text')].map((e) => [e.textContent, where(e)]);
    for (let i = 0; i < own.length; i++) for (let j = 0; j < i; j++) {
      const [a, b] = [own[i][1], own[j][1]];
      const wide = Math.min(a[2], b[2]) - Math.max(a[0], b[0]);
      const high = Math.min(a[3], b[3]) - Math.max(a[1], b[1]);
      if (wide > 0.5 && high > 3) overlaps.push([own[i][0], own[j][0]]); }
    const box = where(svg);
    for (const [text, t] of own) if (t[0] < box[0] - 0.5 || t[2] > box[2] + 0.5 || t[1] < box[1] - 0.5)
      overlaps.push([text, 'edge']); }
  const words = [...document.querySelectorAll('h1,h2,p,li,span,strong,summary,th,td,code')]
    .filter((e) => shown(e) && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  const pale = words.map((e) => [e.textContent, contrast(getComputedStyle(e).color, behind(e))])
    .concat(texts.map((e) => [e.textContent, contrast(getComputedStyle(e).fill, behind(e))]))
    .filter(([_text, ratio]) => ratio < 4.5);
  const marks = [...document.querySelectorAll('svg rect:not(.hover)')].filter(shown)
    .map((e) => [e.getAttribute('class'), contrast(getComputedStyle(e).fill, behind(e))])
    .filter(([_kind, ratio]) => ratio < 3);
  const sizes = texts.map((e) => { const svg = e.ownerSVGElement;
    return parseFloat(getComputedStyle(e).fontSize) * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width; });
  const rows = {};
  for (const each of document.querySelectorAll('.charts section')) {
    const tops = ['h2', 'p', 'figure', 'div'].map((part) => Math.round(where(each.querySelector(part))[1]));
    (rows[Math.round(where(each)[1])] ??= []).push(tops.join()); }
  const ragged = Object.values(rows).filter((tops) => new Set(tops).size > 1);
  return { ragged, charts: [...document.querySelectorAll('svg')].filter(shown).length, overlaps, pale, marks,
    texts: texts.length, smallest: Math.min(99, ...sizes),
    background: getComputedStyle(document.body).backgroundColor,
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth };
})()"""


def nothing():
    span, _found = tally_of(30, 0)
    return figures(span, Tally(), worker="new", where="db/fireworks")


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A month, a day with few launches, a year with many, and nothing."""
    folder = tmp_path_factory.mktemp("pages")
    documents = {
        "month": sample(30, 3000),
        "day": sample(1, 40),
        "minutes": sample(0.02, 3),
        "years": sample(800, 20_000),
        "nothing": nothing(),
    }
    for name, document in documents.items():
        (folder / f"{name}.html").write_text(page(document), encoding="utf-8")
    return folder


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
@pytest.mark.parametrize("name", ["month", "day", "minutes", "years", "nothing"])
def test_a_page_as_it_is_shown(chromium, pages, name, width, scheme):
    chromium.events.clear()
    chromium.show(pages / f"{name}.html", width, 900, scheme)
    for opened in (False, True):
        if opened:
            chromium.evaluate("document.querySelectorAll('details').forEach((e) => e.open = true)")
        seen = chromium.evaluate(LOOK)
        assert seen["overflow"] <= 0, f"the page scrolls sideways: {seen}"
        assert seen["overlaps"] == []
        assert seen["pale"] == []
        assert seen["marks"] == []
        assert seen["ragged"] == [], "charts beside each other are not level"
        assert seen["smallest"] >= 11.5
        assert seen["charts"] == CHARTS.get(name, 7)
        assert seen["texts"] > 0 or name == "nothing"
        dark = sum(json.loads(seen["background"].replace("rgb(", "[").replace(")", "]"))) < 200
        assert dark == (scheme == "dark")
    told = [each for each in chromium.events if each["method"] in SAYS]
    assert told == [], "the console has something to say"
    asked = {
        each["params"]["request"]["url"].partition(":")[0]
        for each in chromium.events
        if each["method"] == "Network.requestWillBeSent"
    }
    assert asked == {"file"}
    assert chromium.evaluate("document.scripts.length") == 0


#: Nothing has failed in those minutes.
CHARTS = {"nothing": 0, "minutes": 5}
SAYS = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
