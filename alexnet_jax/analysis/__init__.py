"""About programs and runs: collectives, timings, figures, the report."""
