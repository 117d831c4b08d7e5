"""Numbers as the standards for grain sizes, phase fractions and particle sizes ask for them."""
