"""What it costs to draw, to train and to read data, and how near that is to what the machine can do."""
