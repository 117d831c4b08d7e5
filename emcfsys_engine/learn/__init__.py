"""Networks, training and inference: the only place that imports torch."""
