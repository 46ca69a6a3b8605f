"""A benchmark of your own repository: bugs injected into it, kept only where its tests notice them."""
