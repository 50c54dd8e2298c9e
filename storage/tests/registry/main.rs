//! Pulls from registries, scripted and real.

mod fixture;
mod server;

mod authentication;
mod crash;
mod failures;
mod images;
mod real;
mod tls;
