"""From batches to a checkpointed run: step, loop, schedule, evaluation."""
