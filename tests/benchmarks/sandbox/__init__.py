"""What a sandbox costs over the bare command."""
