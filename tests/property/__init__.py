"""Property tests: a package, because modules here have the names of their unit tests."""
