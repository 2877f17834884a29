"""Search over recipe values with Ray Tune."""
