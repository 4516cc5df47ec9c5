"""Suites: many evaluations of many models in one go, beside the published numbers."""
