"""Report of tables and samples of runs as one self-contained HTML page."""

import base64
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment

from gen_ray.storage.replacement import write_output
from gen_ray.tracking.comparison import Table
from gen_ray.tracking.runs import latest_image
from gen_ray.tracking.store import Store

SHOWN = 12
"""Number of runs of a table, best first, whose samples are shown."""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ store.experiment }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; color: #222 }
div { overflow-x: auto } table { border-collapse: collapse }
th, td { padding: .25rem .8rem; text-align: right; white-space: nowrap }
th { border-bottom: 2px solid #888 } tr:nth-child(even) { background: #f4f4f4 }
th:first-child, td:first-child { text-align: left } figure { display: inline-block; margin: 1.5rem 1rem 0 0 }
figcaption { font-size: 13px; color: #555 } img { max-width: 100%; image-rendering: pixelated }
</style>
<h1>{{ store.experiment }}</h1>
{% for table, pictures in groups %}
<h2>{{ table.title }}</h2>
<div><table><thead><tr>{% for name in table.header -%}
<th title="{{ table.descriptions[loop.index0] }}">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>{% for line in table.lines %}<tr>{% for cell in line %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% for name, data in pictures %}
<figure><img alt="samples of {{ name }}" src="data:image/png;base64,{{ data }}">
<figcaption>{{ name }}</figcaption></figure>
{% endfor %}
{% endfor %}
</html>
"""


def write(file: Path, groups: Iterable[Table], store: Store) -> None:
    """Write the page. Raise UserError if the file cannot be written."""
    page, filled = Environment(autoescape=True, trim_blocks=True).from_string(PAGE), []
    for table in groups:
        found = ((run.run_id, latest_image(store, run, "evaluation_samples")) for run in table.runs[:SHOWN])
        filled.append((table, [(name, base64.b64encode(data).decode()) for name, data in found if data]))
    write_output(file, page.render(store=store, groups=filled).encode("utf-8"))
