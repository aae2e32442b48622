"""Tensors only: gates and the ratios of activations."""
