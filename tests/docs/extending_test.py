"""docs/extending.md: every diff applies to this tree, and its commands pass."""

import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()
TASKS = (
  "Normalisation after a layer",
  "A learning-rate schedule",
  "A dataset source",
  "An experiment",
  "A third tower",
  "What the report shows",
  "Another optimiser",
  "Another command",
)
SECTIONS = dict(
  re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
)
# One section may take this long: a copy, a few commands of the project.
SECONDS = 600


def blocks(section: str, language: str) -> list[str]:
  """The contents of the section's fenced blocks in a language."""
  return re.findall(
    rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.MULTILINE | re.DOTALL
  )


def changed_files(section: str) -> list[str]:
  """The paths that the section's diff changes, in its order."""
  (diff,) = blocks(section, "diff")
  return re.findall(r"^diff --git a/\S+ b/(\S+)$", diff, re.MULTILINE)


def copy_of_the_repository(folder: pathlib.Path) -> None:
  """Copies the working tree, without what git ignores."""
  listed = subprocess.run(
    ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  for name in filter(None, listed.stdout.split("\0")):
    if (ROOT / name).is_file():  # not one that is deleted but still tracked
      (folder / name).parent.mkdir(parents=True, exist_ok=True)
      shutil.copy2(ROOT / name, folder / name)


def run_in(folder: pathlib.Path, *command: str, text: str = "") -> None:
  """Runs a command in the copy; it must exit with 0."""
  environment = os.environ | {
    # `python` in the page is the Python that runs this test.
    "PATH": f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}",
    # git apply skips files without a word if a parent folder is a repository.
    "GIT_CEILING_DIRECTORIES": str(folder.parent),
  }
  result = subprocess.run(
    command,
    cwd=folder,
    env=environment,
    input=text,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    timeout=SECONDS,
  )
  assert result.returncode == 0, result.stdout[-5000:]


def test_the_sections_are_the_tasks():
  assert tuple(SECTIONS) == TASKS


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_lists_the_files_that_its_diff_changes(section):
  listed = re.findall(r"^\d+\. `([^`]+)`", SECTIONS[section], re.MULTILINE)
  assert listed == changed_files(section)


@pytest.mark.parametrize("section", SECTIONS)
def test_the_diff_still_applies(section):
  (diff,) = blocks(section, "diff")
  result = subprocess.run(
    ["git", "apply", "--check", "-"],
    cwd=ROOT,
    input=diff,
    capture_output=True,
    text=True,
  )
  assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_the_change_works(section, tmp_path):
  copy_of_the_repository(tmp_path)
  (diff,), (commands,) = blocks(section, "diff"), blocks(section, "sh")
  run_in(tmp_path, "git", "apply", "--verbose", "-", text=diff)
  run_in(tmp_path, "bash", "-euxo", "pipefail", "-c", commands)
