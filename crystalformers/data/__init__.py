"""Tables to train on, and how they are split."""
