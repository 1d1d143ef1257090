"""Gradients of trained classical models by their training rows, and what uses them."""
