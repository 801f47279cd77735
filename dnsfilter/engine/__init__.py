"""A packet to its answer, or to "ask upstream": the per-packet path."""
