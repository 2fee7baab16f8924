"""Tensors in, readings out: capture, sites, moments, residual merges and the state that is put back."""
