"""Many images to Parquet: `batch`.

Enter at `run.batch`. `plan` cuts the images into numbered shards, an engine of `engines` or
`triton_requests` answers them, and `run` writes each shard's tables whole.
"""
