"""Takes a picture of the top of an HTML page with Chromium, as a small PNG.

  python -m docs.screenshot report.html docs/report.png --height=1515

docs/report.png is the report of a quickstart, made with this command.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile

from PIL import Image

COLOURS = 128  # of the PNG


def screenshot(page: pathlib.Path, output: str, width: int, height: int):
  """Writes the top `width` x `height` pixels of a page, in light colours."""
  browser = shutil.which("chromium") or shutil.which("google-chrome")
  if browser is None:
    sys.exit("Chromium is not installed (apt-get install chromium).")
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, "page.png")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu"]
    flags += ["--hide-scrollbars", f"--window-size={width},{height}"]
    flags += [f"--user-data-dir={folder}", f"--screenshot={file}"]
    address = page.resolve().as_uri()
    subprocess.run(
      [browser, *flags, address], check=True, stderr=subprocess.DEVNULL
    )
    image = Image.open(file).convert("RGB")
  image.quantize(COLOURS).save(output, optimize=True)
  print(f"{output}: {pathlib.Path(output).stat().st_size / 1e3:,.0f} kB")


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("page", type=pathlib.Path)
  parser.add_argument("output")
  parser.add_argument("--width", type=int, default=1000)
  parser.add_argument("--height", type=int, default=1900)
  arguments = parser.parse_args()
  screenshot(
    arguments.page, arguments.output, arguments.width, arguments.height
  )


if __name__ == "__main__":
  main()
