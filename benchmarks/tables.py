"""The tables of README.md and docs/data.md, made of the committed results.

python -m benchmarks.tables
"""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "data.md")
RESULTS = ROOT / "experiments" / "results"
IMAGENET = 1_281_167 + 50_000


def prepare_table(result) -> str:
  lines = [
    "| JPEG quality | cores | images/s | cores used, wanted | peak memory |"
    " an image | ILSVRC-2012: disk, time |",
    "|---|---|---|---|---|---|---|",
  ]
  for row in result["rows"]:
    size = row["bytes_per_image"]
    hours = IMAGENET / row["images_per_second"] / 3600
    lines.append(
      f"| {row['quality']}, {':'.join(row['subsampling'])} | {row['cores']} |"
      f" {row['images_per_second']:,.0f} | {row['cores_used']:.2f},"
      f" {row['cores_wanted']:.2f} |"
      f" {row['peak_memory_mb']:,.0f} MB | {size / 1e3:.1f} kB |"
      f" {size * IMAGENET / 1e9:.0f} GB, {hours:.1f} h |"
    )
  same = "the same to the byte" if result["same_bytes_after_kills"] else "other"
  lines += ["", f"After {result['kills']} kills at random: {same}."]
  return "\n".join(lines)


def loaders_table(result) -> str:
  names = {
    "decode_all_cores": "bare decoding on all cores (the yardstick)",
    "alexnet_jax": "this pipeline",
    "torch_dataloader_pillow": "torch `DataLoader`, Pillow, a worker a core",
    "tf_data": "`tf.data`",
  }
  rates = {row["name"]: row["images_per_second"] for row in result["rows"]}
  lines = ["| | images/s | of the yardstick |", "|---|---|---|"]
  for name, rate in rates.items():
    share = rate / rates["decode_all_cores"]
    lines.append(f"| {names[name]} | {rate:,.0f} | {share:.0%} |")
  return "\n".join(lines)


def table(name: str) -> str:
  """The table of a result, with where it was measured."""
  make = {"prepare": prepare_table, "loaders": loaders_table}[name]
  written = json.loads((RESULTS / f"{name}.json").read_text())
  busy = written["load_average"]
  source = (
    f"(`{written['command']}` on {written['hardware']}; load average at the"
    f" end {busy:.1f}. `experiments/results/{name}.json`.)"
  )
  if name == "prepare":
    source += " All of ILSVRC-2012 is calculated from this sample."
  return f"{make(written['result'])}\n\n{source}\n"


def fill(page: str) -> str:
  """The page with every table made anew."""
  return re.sub(
    r"<!-- table: (\w+) -->\n.*?<!-- end -->",
    lambda found: f"<!-- table: {found[1]} -->\n{table(found[1])}<!-- end -->",
    page,
    flags=re.DOTALL,
  )


if __name__ == "__main__":
  for page in PAGES:
    page.write_text(fill(page.read_text()))
