"""Plain PyTorch, from the formulas."""
