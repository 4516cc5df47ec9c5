"""Models of other libraries behind our interface: the same Features, so that every evaluation can compare them with ours."""
