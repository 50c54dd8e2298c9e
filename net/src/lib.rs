//! Networks: drivers, published ports, names. Joins a network namespace it is given and makes none.

pub mod mode;

pub mod driver;

pub mod slirp4netns;

pub mod pasta;

pub mod ports;

pub mod forward;

pub mod hosts;

pub mod resolv_conf;

pub mod netlink;

#[allow(unsafe_code)]
mod sys;
