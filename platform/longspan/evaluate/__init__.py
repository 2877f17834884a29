"""What a model can do at a length: needle grids and held-out loss by position. Knows no Ray."""
