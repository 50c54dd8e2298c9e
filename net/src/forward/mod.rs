//! The port forwarder.
