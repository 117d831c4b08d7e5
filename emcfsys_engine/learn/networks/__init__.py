"""Networks: any timm backbone under four heads, and their weights."""
