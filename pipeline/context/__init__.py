"""Find the definitions that may hold the fault, and choose what the model gets to read about one of them."""
