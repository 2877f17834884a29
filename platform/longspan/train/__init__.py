"""One step that reads like the paper, one loop; knows no Ray."""
