"""Training: what every method shares that learns, and the family `train`."""
