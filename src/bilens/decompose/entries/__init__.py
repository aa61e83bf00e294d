"""The largest entries of a tensor, found exactly by bounds instead of by making them all."""
