"""Prediction: tiles, bands, files, evaluation."""
