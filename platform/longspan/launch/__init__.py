"""What starts the training loop: this process, or Ray Train workers; the loop is the same."""
