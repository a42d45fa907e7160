"""From image files to batches, and the preparation of datasets."""
