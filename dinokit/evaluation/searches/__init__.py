"""Protocols of published sets for retrieval, which says when each is asked."""
