"""From files to arrays, splits and batches: where the images are, how one is decoded, and the decoded cache."""
