"""The graph's nodes. Each takes the tools and the progress so far, and changes the progress."""
