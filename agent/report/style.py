"""Colours and layout of the page.

The colours of what stands in one chart differ on the axis from blue to yellow and in lightness, so that they can be
told apart with any kind of colour blindness; lines differ in their dashes, too. A test measures it.
"""

from __future__ import annotations

LIGHT = {
    "bg": "#ffffff",
    "card": "#f6f8fa",
    "fg": "#1b1f24",
    "dim": "#57606a",
    "grid": "#d8dee4",
    "axis": "#6e7781",
    "completed": "#0072b2",
    "fizzled": "#c44e00",
    "reserved": "#b07700",
    "running": "#3b4cc0",
    "latency": "#00796b",
    "others": "#6e7781",
}
DARK = {
    "bg": "#0d1117",
    "card": "#161b22",
    "fg": "#e6edf3",
    "dim": "#9da7b1",
    "grid": "#2b323b",
    "axis": "#8b949e",
    "completed": "#4aa3e0",
    "fizzled": "#f5894a",
    "reserved": "#e3b341",
    "running": "#8c9eff",
    "latency": "#3fc1ae",
    "others": "#8b949e",
}


def _variables(colours: dict[str, str]) -> str:
    return "".join(f"--{name}:{value};" for name, value in colours.items())


_KINDS = "".join(
    f"svg .{name}{{fill:var(--{name})}}.key.{name}{{border-color:var(--{name})}}"
    f"svg .line.{name}{{fill:none;stroke:var(--{name})}}"
    for name in ("completed", "fizzled", "reserved", "running", "latency", "others")
)

STYLE = (
    f":root{{color-scheme:light dark;{_variables(LIGHT)}}}"
    f"@media (prefers-color-scheme:dark){{:root{{{_variables(DARK)}}}}}"
    """
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif}
header,main,footer{max-width:1240px;margin:0 auto;padding:0 16px}
header{padding-top:32px}
header .kind{margin:0;font-weight:600;color:var(--completed)}
h1{font-size:1.9rem;line-height:1.25;letter-spacing:-.01em;margin:0;overflow-wrap:anywhere}
h2{font-size:1.15rem;line-height:1.3;margin:0 0 4px}
p{margin:0 0 12px}
header p,footer p,section>p,.now{color:var(--dim);font-size:.9rem;overflow-wrap:anywhere}
code{font:.95em ui-monospace,monospace}
.tiles{list-style:none;margin:20px 0 12px;padding:0;display:grid;gap:12px;grid-template-columns:repeat(2,minmax(0,1fr))}
.tiles li{background:var(--card);border-radius:8px;padding:12px 14px}
.tiles span{display:block;color:var(--dim);font-size:.85rem}
.tiles strong{font-size:1.5rem;line-height:1.3;font-variant-numeric:tabular-nums}
.charts{display:grid;gap:0 32px;grid-template-columns:minmax(0,1fr);margin:28px 0 0}
.charts section{min-width:0;display:grid;grid-template:subgrid/minmax(0,1fr);grid-row:span 4;row-gap:0;
 border-top:1px solid var(--grid);padding:18px 0 32px;align-content:start}
figure{margin:0}
.nothing{background:var(--card);border-radius:8px;padding:24px;margin:24px 0}
.empty{background:var(--card);border-radius:8px;padding:24px;text-align:center}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 20px;margin:0 0 6px;padding:0;font-size:.85rem}
.key{display:inline-block;width:20px;border-top:10px solid;margin-right:6px;vertical-align:middle}
.key.reserved{border-top:3px dashed}
.key.running{border-top-width:3px}
svg{display:block;width:100%;height:auto;font:12px system-ui,sans-serif;font-variant-numeric:tabular-nums}
svg text{fill:var(--fg)}
svg .end{text-anchor:end}
svg .middle{text-anchor:middle}
svg .grid{stroke:var(--grid)}
svg .axis{stroke:var(--axis)}
svg .mark{stroke:var(--fg);stroke-dasharray:2 3}
svg .line{stroke-width:2}
svg .line.reserved{stroke-dasharray:6 4}
svg .hover{fill:transparent}
svg .hover:hover{fill:var(--axis);fill-opacity:.15}
svg.narrow{max-width:480px}
svg.wide{display:none;max-width:760px}
svg.full{display:none}
details{margin-top:8px;font-size:.85rem}
summary{cursor:pointer;color:var(--dim)}
table{border-collapse:collapse;margin-top:8px;width:100%;table-layout:auto}
th,td{padding:3px 8px 3px 0;border-bottom:1px solid var(--grid);text-align:left;font-weight:400;
 overflow-wrap:anywhere;vertical-align:top}
td:last-child,thead th:last-child{text-align:right}
td{font-variant-numeric:tabular-nums}
thead th{font-weight:600}
footer{padding:16px 16px 32px}
@media (min-width:640px){svg.narrow{display:none}svg.wide{display:block}
 .tiles{grid-template-columns:repeat(4,minmax(0,1fr))}}
@media (min-width:1180px){.charts{grid-template-columns:repeat(2,minmax(0,1fr))}
 .whole{grid-column:1/-1}.whole svg.wide{display:none}.whole svg.full{display:block}}
@media print{section{break-inside:avoid}}
""" + _KINDS
)
