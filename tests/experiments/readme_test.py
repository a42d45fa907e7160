"""The table of experiments/README.md and the committed results."""

from alexnet_jax.analysis import claims
from experiments import readme


def test_claims_of_the_results_are_claims_of_the_paper():
  known = {claim.key for claim in claims.CLAIMS}
  for name, record in readme.results().items():
    assert record.get("claims", {}).keys() <= known, name
    assert {"what", "hardware", "versions", "command", "commit"} <= set(record)


def test_a_claim_has_one_result():
  """Of two, the later file would answer for the paper's number unseen."""
  claimed = [
    key
    for record in readme.results().values()
    for key in record.get("claims", {})
  ]
  assert len(claimed) == len(set(claimed))


def test_a_link_to_the_figure_if_there_is_one(tmp_path, monkeypatch):
  monkeypatch.setattr(readme, "FOLDER", tmp_path)
  (tmp_path / "results").mkdir()
  (tmp_path / "results" / "x.svg").touch()
  assert readme._link("x.json").endswith(", [figure](results/x.svg)")
  assert "figure" not in readme._link("y.json")
