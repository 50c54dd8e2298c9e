//! The slirp4netns driver.
