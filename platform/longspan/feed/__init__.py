"""From plan rows to micro-batches: read, shift labels, give positions; in this process or on Ray Data, by one function."""
