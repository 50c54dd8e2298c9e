//! Pulls from registries, scripted and real.

mod fixture;
mod server;

mod authentication;
mod failures;
mod images;
mod tls;
