"""The Hugging Face model: opened safely, with our attention, RoPE set and asserted, and sequence parallelism."""
