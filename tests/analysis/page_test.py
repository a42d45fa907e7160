"""HTML building: escaping, and the data of charts."""

import json
import re

from alexnet_jax.analysis import page


def test_text_is_escaped_and_markup_is_not():
  cell = page.element("td", "<b>", page.element("b", "&"), title='"x"')
  assert cell == '<td title="&quot;x&quot;">&lt;b&gt;<b>&amp;</b></td>'


def test_charts_keep_the_last_point_and_drop_values_that_are_not_finite():
  points = [(i, float(i)) for i in range(5001)] + [(6000, None)]
  curve = page.Curve("</script>", [*points, (7000, float("nan"))], 7)
  chart = page.chart("t", "x", "%", [curve])
  assert chart.count("</script>") == 1
  data = json.loads(re.search(r"<script[^>]*>(.*)</script>", chart)[1])
  (series,) = data["series"]
  assert series["colour"] == "var(--c1)" and not series["dashed"]
  assert series["name"] == "</script>" and series["x"][-1] == 5000
  assert len(series["x"]) <= page.MAX_POINTS + 1
