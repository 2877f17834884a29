"""From plan rows to micro-batches: read, shift labels, give positions; here or on Ray Data, by one function."""
