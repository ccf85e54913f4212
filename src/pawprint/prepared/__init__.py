"""300x300 shards: written by preprocess (write), read by training and evaluation (read), varied (augment)."""
