"""Documents to tokenised Parquet shards with a manifest, and the way back from a document number to its tokens.

First room of the data's way: `sampling` plans over the index written here, `feed` reads the shards through `shards`.
"""
