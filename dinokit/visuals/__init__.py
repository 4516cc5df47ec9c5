"""Pictures of what a backbone has learned, and the page that shows a run."""
