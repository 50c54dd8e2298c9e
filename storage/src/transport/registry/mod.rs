//! The registry protocol (OCI distribution specification, docker registry v2).
