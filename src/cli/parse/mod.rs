//! Values of options: text to type, without a look at the host.
//!
//! Every function answers a bad value with a reason that completes *invalid argument "…" for "--flag" flag: …*.

/// Sizes in bytes with suffixes.
pub(crate) mod size;

/// Spans of time.
pub(crate) mod duration;

/// `-e`, `--env-file`, labels and annotations.
pub(crate) mod pairs;

/// `--mount`.
pub(crate) mod mount;

/// `-v` and `--volumes-from`.
pub(crate) mod volume;

/// `--tmpfs`, and mount flags that all kinds of mounts share.
pub(crate) mod mount_flags;

/// `-p` and `--expose`.
pub(crate) mod ports;

/// `--ulimit`, `--device`, `--sysctl`.
pub(crate) mod limits;

/// Limits of devices, and of where a cgroup is.
pub(crate) mod devices;

/// `--secret`.
pub(crate) mod secret;

/// Capabilities and `--security-opt`.
pub(crate) mod security;

/// `--userns`, `--pid`, `--ipc`, `--uts`, `--cgroupns`.
pub(crate) mod namespaces;

/// `--add-host`, `--dns`, `--hostname`.
pub(crate) mod names;

/// Everything that is one word: policies, drivers, signals, masks.
pub(crate) mod words;

/// Networks.
pub(crate) mod networks;

/// The outcome of a parser.
pub(crate) type Parsed<T> = Result<T, String>;
