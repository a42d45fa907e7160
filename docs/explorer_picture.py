"""Takes the picture of the explorer in README.md.

  python -m docs.explorer_picture [WORKDIR] [PICTURE.png]

Starts the explorer of a run (default runs/quickstart), cuts a tower in
Chromium, and writes what a visitor sees then (default docs/explorer.png). It
needs requirements-explore.txt, requirements-dev.txt and Chromium.
"""

import pathlib
import re
import subprocess
import sys
import tempfile

from PIL import Image

from tests.browser import Browser

WIDTH, HEIGHT = 1000, 1300  # pixels
TOWER = "tower 1"  # the one that is cut


def main(workdir: str = "runs/quickstart", file: str = "") -> None:
  file = file or str(pathlib.Path(__file__).with_name("explorer.png"))
  command = [sys.executable, "-m", "alexnet_jax.explore"]
  server = subprocess.Popen(
    [*command, f"--workdir={workdir}"], stdout=subprocess.PIPE, text=True
  )
  with tempfile.TemporaryDirectory() as profile:
    browser = Browser(profile)
    try:
      line = server.stdout.readline()
      browser.screen(WIDTH, HEIGHT)
      browser("Emulation.setScrollbarsHidden", hidden=True)
      browser.open(re.search(r"http://\S+", line)[0])
      browser.wait("document.querySelector('.verdict')", 300)
      browser.value(
        f"document.querySelector('input[type=radio][value=\"{TOWER}\"]').click()"
      )
      browser.wait("document.querySelector('.class .c1')", 300)
      browser.value("new Promise(done => setTimeout(done, 2000))")
      browser.picture(file)
      Image.open(file).convert("RGB").quantize(128).save(file, optimize=True)
    finally:
      server.terminate()
      browser.close()
  print(f"wrote {file}")


if __name__ == "__main__":
  main(*sys.argv[1:])
