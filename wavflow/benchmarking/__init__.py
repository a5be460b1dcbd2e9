"""How fast models sample and train, how fast data are read, and how much memory sampling takes."""
