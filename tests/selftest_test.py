"""The self-test reports a failed check and still runs the others."""

from alexnet_jax import selftest


def test_a_failed_check_is_reported_and_the_others_still_run(
  monkeypatch, capsys
):
  def fails():
    raise RuntimeError("two and two make five")

  checks = {"first": fails, "second": lambda: "four devices"}
  monkeypatch.setattr(selftest, "CHECKS", checks)
  assert selftest.main() == 1
  first, second, verdict = capsys.readouterr().out.splitlines()
  assert first.startswith("FAILED first: RuntimeError('two and two make five')")
  assert second.startswith("ok     second: four devices")
  assert verdict == "1 of 2 checks failed"


def test_all_checks_passed(monkeypatch, capsys):
  monkeypatch.setattr(selftest, "CHECKS", {"only": lambda: "fine"})
  assert selftest.main() == 0
  assert capsys.readouterr().out.endswith("all checks passed\n")
