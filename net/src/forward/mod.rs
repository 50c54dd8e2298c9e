//! Published ports: a forwarder that keeps the client's address.
