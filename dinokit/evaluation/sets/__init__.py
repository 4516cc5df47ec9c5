"""What is special about published sets: which images ask, what is right, which classes compete."""
