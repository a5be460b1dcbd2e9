"""How fast models draw and train and how fast data are read, and how much memory drawing takes."""
