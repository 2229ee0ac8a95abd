"""How a small judge is trained on human labels and measured: `shard judge train-embedded`.

The only part of `shard_train` that knows judges: it makes one. Nothing that trains a model to be judged imports it.
"""
