"""Objects of masks in nanometres: found, measured, written as tables."""
