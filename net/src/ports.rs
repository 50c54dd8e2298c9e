//! What `--publish` may say.
