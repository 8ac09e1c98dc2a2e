"""Settings of a run of seconds on small pictures, in fp32, with dropout, and a checkpoint after every step."""

SETTINGS = """
precision = "fp32"
[data]
image_size = 24
[fit]
epochs = 4
batch_size = 16
keep = "last"
checkpoint_seconds = 0.0
[model]
layers = \"\"\"
conv 8 3 relu
pool 2
dropout 0.3
flatten
dense 16 relu
\"\"\"
[evidence]
baselines = false
attention = false
"""
