"""Sets of images: which learn, choose, ask and answer, and what is special about published ones."""
