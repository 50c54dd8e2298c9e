//! What `--network` may say.
