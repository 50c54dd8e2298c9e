//! Networks: bridges and who leads them, names, published ports, ways out. Containers' namespaces are given to it.
//!
//! ```text
//! --network ─ mode ─┬▶ leader: bridges, addresses, rules, dns        (one process of the user, host namespace)
//!                   │    └─▶ driver: its way out
//!                   └▶ driver ─▶ builtin | slirp4netns | pasta       (supervisor, host namespace)
//! --publish ─ ports ─▶ forward: listeners bound before the start, one process that joins the container's namespace
//! texts for the container: hosts, resolv_conf
//! ```
//!
//! # One start, in order
//! ```text
//! CLI or supervisor   Listeners::bind(requests)                    conflicts end the start here, nothing is left
//! supervisor          driver_for(mode) → prepare → start            returns at once
//!                     forward::start(&listeners, netns, target)     connections queue until it serves
//! container's init    writes Plan::sysctls                          before the helper starts
//! container's init    brings lo up, writes the bundle's sysctls     meanwhile
//! supervisor          poll ready_fd, pidfd → on_ready               then the payload may run
//!                     discover                                      pasta only, afterwards: addresses for inspect
//! restart             Forwarder::stop, Started::stop; both anew with the next namespace; the listeners stay
//! ```
//!
//! # Invariants
//! - No thread, no async runtime, no shell, no `ip` or `nft`; a helper program is executed, never a shell line.
//! - Every descriptor is close-on-exec; what a helper inherits is listed in its plan.
//! - No public DNS server is ever made up, and the host's loopback stays closed unless asked for.
//! - The client's address of a published port reaches the container unchanged.
//!
//! # Kernel features
//! | feature | since | without it |
//! |---|---|---|
//! | pidfd_open, waitid(P_PIDFD) | 5.4 | no networks |
//! | `ip_unprivileged_port_start` | 4.11 | ports below 1024 need the capability |
//! | rules by protocol and port | 4.17 | no UDP ports |
//! | `tcp_fwmark_accept`, `fwmark_reflect` | 3.16 | no TCP ports |
//! | close_range | 5.9 | one close each |

// The fences of clippy.toml are for what we ship; tests make their own surroundings.
#![cfg_attr(test, allow(clippy::disallowed_methods))]

pub mod mode;

pub mod driver;

pub mod driver_options;

pub mod slirp4netns;

pub mod pasta;

pub mod builtin;

mod helper;

mod process;

pub mod ports;

pub mod forward;

pub mod netlink;

pub mod netfilter;

pub mod network;

pub mod subnet;

pub mod egress;

pub mod dns;

pub mod leader;

mod sysctl;

pub mod hosts;

pub mod resolv_conf;

#[allow(unsafe_code)]
mod sys;
