"""Exact, mergeable statistics of tensors: what is summed, by which backend, and which numbers follow."""
