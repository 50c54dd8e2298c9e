//! The pasta driver.
