"""What a model can do at a length: needle grids and held-out loss by position, one forward pass a batch. Knows no Ray."""
