"""The bounded form of the fault suite; see suite.py for the long one."""

import pytest
from suite import FAULTS
from trial import EQUAL, EXPECTED, Suite

pytestmark = pytest.mark.long

# The rest runs with suite.py: it takes longer, or finds what is still open.
BOUNDED = ("kills", "signals", "two_runs", "checkpoints", "images")


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
  return Suite(str(tmp_path_factory.mktemp("faults")))


# Forks and pipes of dead processes are not this test's own leaks.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", BOUNDED)
def test_faults(suite, name):
  rows = list(FAULTS[name](suite, False))
  for row in rows:
    print(row)
  assert rows
  assert {row["result"] for row in rows} <= {EQUAL, EXPECTED}
