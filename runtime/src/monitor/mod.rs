//! What watches a running container.
