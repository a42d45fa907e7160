"""Every layout that `prepare` reads: the right images with the right labels."""

import pytest
import sample_layouts
from sample_data import CLASSES

from alexnet_jax.data import preparing

# What is found in each layout, in a sentence.
FOUND = {
  "imagefolder": "torchvision's ImageFolder layout: 12 training images, 6"
  " validation images; 3 classes",
  "other_split_names": "torchvision's ImageFolder layout: 12 training images, 6"
  " validation images, 6 test images; 3 classes",
  "class_folders": "class folders: 12 training images, 6 held out from them for"
  " validation; 3 classes",
  "nested": "torchvision's ImageFolder layout: 12 training images, 6 validation"
  " images; 3 classes",
  "kaggle": "Kaggle's ILSVRC layout: 12 training images, 6 of val/ labelled by"
  " LOC_val_solution.csv; 3 classes",
  "kaggle_inner": "Kaggle's ILSVRC layout: 12 training images, 6 of val/"
  " labelled by LOC_val_solution.csv; 3 classes",
  "official_list": "Kaggle's ILSVRC layout: 12 training images, 6 of val/"
  " labelled by the official list; 3 classes",
  "tiny_imagenet": "Tiny ImageNet's layout: 12 training images, 6 of val/"
  " labelled by val_annotations.txt; 3 classes",
  "class_tars": "a tar per class: 12 training images, 6 validation images; 3"
  " classes",
  "class_tars_alone": "a tar per class: 12 training images, 6 held out from"
  " them for validation; 3 classes",
  "hugging_face": "Parquet files (columns image.bytes and label, 3 class"
  " names): 12 training images, 6 validation images; 3 classes",
  "plain_parquet": "Parquet files (columns image and label): 12 training"
  " images, 6 validation images, 3 test images; 3 classes",
  "webdataset": "WebDataset shards (class names from classnames.txt): 12"
  " training images, 6 validation images; 3 classes",
  "webdataset_in_folders": "WebDataset shards (class names from the labels): 12"
  " training images, 6 validation images; 3 classes",
  "official_tars": "the tars of ILSVRC-2012: 12 training images, 6 validation"
  " images; 1,000 classes",
}


@pytest.mark.parametrize("name", sample_layouts.ALL)
def test_every_image_of_a_layout_has_the_class_that_it_shows(tmp_path, name):
  source, options = sample_layouts.ALL[name](tmp_path / "in")
  found = preparing.open_originals(source, options)
  orientation = "; EXIF orientation ignored (ImageNet)"
  assert found.description() == FOUND[name] + orientation
  for split, count in (("train", 12), ("validation", 6)):
    images = found.splits[split]
    pairs = [images[i] for i in range(len(images))]
    assert len(pairs) == count
    assert sorted(images.labels().tolist()) == sorted([0, 1, 2] * (count // 3))
    for encoded, label in pairs:
      assert sample_layouts.class_of(encoded) == label
    assert images.labels().tolist() == [label for _, label in pairs]
  assert found.class_names[:3] == list(CLASSES)
