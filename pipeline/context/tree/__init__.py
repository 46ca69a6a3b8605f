"""A repository as a tree: packages, files, classes, functions, windows."""
