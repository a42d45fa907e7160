"""Which files of folders are pictures, and reading hostile ones."""

import os

import numpy as np
import pytest
from sample_data import jpeg, picture, png_header

from alexnet_jax.data import picture_files
from alexnet_jax.data.images import UndecodableImage
from alexnet_jax.runtime.command import UserError


def test_folders_are_searched_and_what_is_left_out_is_named(tmp_path):
  names = ["b.JPG", "a/z.png", "a/b/c.webp", "a/notes.txt", "a/.DS_Store"]
  names += [".hidden/x.jpg", "._b.jpg", "no_suffix"]
  for name in names:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
  os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
  os.symlink(tmp_path, tmp_path / "a" / "loop")
  os.symlink(tmp_path / "missing", tmp_path / "dangling.jpg")
  os.symlink(tmp_path / "b.JPG", tmp_path / "linked.jpg")
  found, left_out = picture_files.find([str(tmp_path)])
  relative = [os.path.relpath(path, tmp_path) for path in found]
  assert relative == ["b.JPG", "linked.jpg", "a/z.png", "a/b/c.webp"]
  relative = {os.path.relpath(path, tmp_path) for path in left_out}
  links = {"pipe.jpg", "a/loop", "dangling.jpg"}
  assert relative == {"a/notes.txt", "a/.DS_Store", ".hidden"} | links | {
    "._b.jpg",
    "no_suffix",
  }
  # A file that is named itself counts, whatever its name is.
  named = [str(tmp_path / "no_suffix"), str(tmp_path / "b.JPG")]
  assert picture_files.find(named) == (named, [])


@pytest.mark.parametrize(
  "name, words", [("missing", "does not exist"), ("pipe", "neither")]
)
def test_a_place_that_is_no_file_or_folder_is_an_error(tmp_path, name, words):
  os.mkfifo(tmp_path / "pipe")
  with pytest.raises(UserError, match=f"{name}.*{words}"):
    picture_files.find([str(tmp_path / name)])


def test_a_picture_is_decoded(tmp_path):
  path = tmp_path / "x.jpg"
  path.write_bytes(jpeg(3))
  error = np.abs(picture_files.read(path) - picture(3).astype(float))
  assert error.mean() < 3


@pytest.mark.parametrize(
  "content, words",
  [
    (b"", "empty"),
    (b"text", "cannot identify"),
    (jpeg(3)[:200], "."),
    (png_header(60_000, 60_000), "pixels"),
  ],
)
def test_a_hostile_picture_is_an_error(tmp_path, content, words):
  path = tmp_path / "x.jpg"
  path.write_bytes(content)
  with pytest.raises(UndecodableImage, match=words):
    picture_files.read(path)


def test_a_huge_file_is_not_read(tmp_path):
  path = tmp_path / "x.jpg"
  with open(path, "wb") as file:
    file.truncate(2**40)  # takes no room on the disk
  with pytest.raises(UndecodableImage, match="1,099,511,627,776 bytes"):
    picture_files.read(path)
