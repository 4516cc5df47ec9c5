"""Metrics as pure functions: arrays in, numbers out; they know no model and no data."""
