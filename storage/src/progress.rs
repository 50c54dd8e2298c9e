//! What a transfer reports while it runs.
