//! Options and image configuration to an OCI runtime specification, as pure functions.
