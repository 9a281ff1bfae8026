"""What is Kaggle's own: the bundle that runs there without a network, its rehearsal here, and the client."""
