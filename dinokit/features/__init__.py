"""How images meet a frozen network: one way through it, rows that are kept, vectors that describe an image."""
