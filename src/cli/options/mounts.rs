//! What the container sees of the host's files and devices.

use clap::Args;
use storage::state::request::{Mount, Request};

use super::Caller;
use crate::cdi;
use crate::cli::parse::{limits, mount, mount_flags, secret, size, volume};
use crate::cli::usage::{Checked, InvalidOption, each, maybe, one};

/// Options of files and devices.
#[derive(Args, Clone, Debug)]
pub(crate) struct MountOptions {
    /// Mount a path of the host or a volume, [[SOURCE:]TARGET[:OPTIONS]]
    #[arg(short, long = "volume", value_name = "VOLUME")]
    pub(crate) volumes: Vec<String>,
    /// Mount a path of the host, a volume, an image or a temporary file system, type=TYPE,KEY=VALUE...
    #[arg(long = "mount", value_name = "MOUNT")]
    pub(crate) mounts: Vec<String>,
    /// Mount a temporary file system, TARGET[:OPTIONS]
    #[arg(long = "tmpfs", value_name = "TMPFS")]
    pub(crate) tmpfs: Vec<String>,
    /// Mount the volumes of another container, CONTAINER[:ro,z]
    #[arg(long = "volumes-from", value_name = "CONTAINER")]
    pub(crate) volumes_from: Vec<String>,
    /// Give the container a secret, NAME[,type=mount|env,target=...,uid=...,gid=...,mode=...]
    #[arg(long = "secret", value_name = "SECRET")]
    pub(crate) secrets: Vec<String>,
    /// What to do with the volumes that the image declares: anonymous, bind, tmpfs or ignore
    #[arg(long, value_name = "MODE", default_value = "anonymous")]
    pub(crate) image_volume: String,
    /// Make the root file system read-only
    #[arg(long)]
    pub(crate) read_only: bool,
    /// With --read-only, keep /run, /tmp and /var/tmp writable in memory
    #[arg(long, default_value_t = true)]
    pub(crate) read_only_tmpfs: bool,
    /// A directory in the container that a program changes its root to: hosts and resolv.conf are there as well
    #[arg(long = "chrootdirs", value_name = "DIR", value_delimiter = ',')]
    pub(crate) chroot_dirs: Vec<String>,
    /// Rules of the device cgroup, which a container without root does not have
    #[arg(long = "device-cgroup-rule", value_name = "RULE", hide = true)]
    pub(crate) device_rules: Vec<String>,
    /// Size of /dev/shm
    #[arg(long, value_name = "SIZE")]
    pub(crate) shm_size: Option<String>,
    /// Make a device of the host visible, SOURCE[:TARGET[:PERMISSIONS]], or one that has a name, VENDOR/CLASS=NAME (CDI)
    #[arg(long = "device", value_name = "DEVICE")]
    pub(crate) devices: Vec<String>,
    /// As `volumes`, where nothing else is mounted.
    #[arg(skip)]
    pub(crate) volume_defaults: Vec<String>,
    /// As `mounts`, where nothing else is mounted.
    #[arg(skip)]
    pub(crate) mount_defaults: Vec<String>,
}

/// What becomes of the volumes that an image declares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ImageVolumes {
    /// Volumes without a name.
    #[default]
    Anonymous,
    /// Temporary file systems.
    Tmpfs,
    /// Nothing.
    Ignore,
}

impl MountOptions {
    /// `--image-volume`.
    pub(crate) fn image_volumes(&self) -> Checked<ImageVolumes> {
        one("--image-volume", &self.image_volume, |mode| match mode {
            "anonymous" | "bind" => Ok(ImageVolumes::Anonymous),
            "tmpfs" => Ok(ImageVolumes::Tmpfs),
            "ignore" => Ok(ImageVolumes::Ignore),
            _ => Err("must be anonymous, bind, tmpfs or ignore".to_owned()),
        })
    }

    pub(crate) fn apply(&self, request: &mut Request, caller: &Caller<'_>) -> Checked<()> {
        if let Some(rule) = self.device_rules.first() {
            let reason = "device cgroup rules are not supported in rootless mode; see --device".to_owned();
            return Err(InvalidOption { flag: "--device-cgroup-rule", value: rule.clone(), reason });
        }
        request.chroot_dirs = each("--chrootdirs", &self.chroot_dirs, mount_flags::target)?;
        let mut seen = Vec::new();
        for (flag, values, parse) in [
            ("--mount", &self.mounts, &(|value: &str| mount::mount(value, caller.cwd)) as &dyn Fn(&str) -> _),
            ("-v, --volume", &self.volumes, &|value: &str| volume::volume(value, caller.cwd).map(|mount| vec![mount])),
            ("--tmpfs", &self.tmpfs, &|value: &str| mount_flags::tmpfs(value).map(|mount| vec![Mount::Tmpfs(mount)])),
        ] {
            for (value, mounts) in values.iter().zip(each(flag, values, parse)?) {
                for mount in mounts {
                    if seen.contains(mount.target()) {
                        let reason = format!("{}: duplicate mount destination", mount.target().display());
                        return Err(InvalidOption { flag, value: value.clone(), reason });
                    }
                    seen.push(mount.target().clone());
                    request.mounts.push(mount);
                }
            }
        }
        let by_default = [
            each("volumes of containers.conf", &self.volume_defaults, |value| volume::volume(value, caller.cwd))?,
            each("mounts of containers.conf", &self.mount_defaults, |value| mount::mount(value, caller.cwd))?.concat(),
        ];
        for mount in by_default.concat() {
            if !seen.contains(mount.target()) {
                seen.push(mount.target().clone());
                request.mounts.push(mount);
            }
        }
        request.volumes_from = each("--volumes-from", &self.volumes_from, volume::volumes_from)?;
        request.secrets = each("--secret", &self.secrets, secret::secret)?;
        request.read_only = self.read_only;
        request.read_only_tmpfs = self.read_only_tmpfs;
        request.shm_size_bytes = maybe("--shm-size", self.shm_size.as_ref(), size::bytes)?;
        let (named, nodes): (Vec<_>, Vec<_>) = self.devices.iter().cloned().partition(|value| cdi::is_qualified(value));
        request.devices = each("--device", &nodes, limits::device)?;
        request.cdi_devices = named;
        Ok(())
    }
}
