"""Micrograph formats: any file a microscope writes becomes an array with its pixel size."""
