//! `.volume`, `.network`, `.image`: what containers need, made once.

use super::Making;
use super::command::Rule;

pub(super) const VOLUME: &[Rule] = &[Rule::One("Driver", "--driver"), Rule::Pairs("Label", "--label")];

pub(super) const VOLUME_KEYS: &[&str] = &["Copy", "Device", "Group", "Image", "Options", "Type", "User", "VolumeName"];

pub(super) const NETWORK: &[Rule] = &[
    Rule::Bool("DisableDNS", "--disable-dns"),
    Rule::Bool("Internal", "--internal"),
    Rule::Bool("IPv6", "--ipv6"),
    Rule::One("Driver", "--driver"),
    Rule::One("IPAMDriver", "--ipam-driver"),
    Rule::One("InterfaceName", "--interface-name"),
    Rule::Every("DNS", "--dns"),
    Rule::Pairs("Options", "--opt"),
    Rule::Pairs("Label", "--label"),
];

pub(super) const NETWORK_KEYS: &[&str] = &["Gateway", "IPRange", "NetworkDeleteOnStop", "NetworkName", "Subnet"];

pub(super) const IMAGE: &[Rule] = &[
    Rule::One("Arch", "--arch"),
    Rule::One("AuthFile", "--authfile"),
    Rule::One("CertDir", "--cert-dir"),
    Rule::One("Creds", "--creds"),
    Rule::One("DecryptionKey", "--decryption-key"),
    Rule::One("OS", "--os"),
    Rule::One("Variant", "--variant"),
    Rule::One("Retry", "--retry"),
    Rule::One("RetryDelay", "--retry-delay"),
    Rule::Bool("AllTags", "--all-tags"),
    Rule::Bool("TLSVerify", "--tls-verify"),
];

pub(super) const IMAGE_KEYS: &[&str] = &["Image", "ImageTag"];

impl Making<'_> {
    pub(super) fn volume(&mut self) -> Result<(), String> {
        let mut create = self.command(&["volume", "create", "--ignore"])?;
        let mut options = Vec::new();
        if self.filled("Driver") == Some("image") {
            let image = self.filled("Image").map(str::to_owned);
            let image = image.ok_or("the key Image is mandatory when using the image driver")?;
            options.push(format!("image={}", self.image_named(&image)?));
        } else {
            let mut mount = Vec::new();
            for (key, name) in [("User", "uid"), ("Group", "gid")] {
                if let Some(id) = self.filled(key) {
                    id.parse::<u32>().map_err(|_| format!("{key}={id}: must be a number"))?;
                    mount.push(format!("{name}={id}"));
                }
            }
            if let Some(copies) = self.flag("Copy") {
                options.push(if copies { "copy".to_owned() } else { "nocopy".to_owned() });
            }
            let device = self.filled("Device").map(str::to_owned);
            for key in ["Type", "Options"] {
                if device.is_none() && self.filled(key).is_some() {
                    return Err(format!("key {key} can't be used without Device"));
                }
            }
            if let Some(device) = device {
                options.push(format!("device={device}"));
                if let Some(kind) = self.filled("Type") {
                    options.push(format!("type={kind}"));
                    if kind == "bind" {
                        self.service.add("Unit", "RequiresMountsFor", device);
                    }
                }
                mount.extend(self.filled("Options").map(str::to_owned));
            }
            if !mount.is_empty() {
                options.push(format!("o={}", mount.join(",")));
            }
        }
        options.iter().for_each(|option| create.add(["--opt", option]));
        self.apply_rules(&mut create)?;
        self.add_arguments(&mut create)?;
        create.add([self.source.resource()]);
        self.execute("ExecStart", &create);
        self.add_oneshot(true);
        Ok(())
    }

    pub(super) fn network(&mut self) -> Result<(), String> {
        let name = self.source.resource();
        if self.flag("NetworkDeleteOnStop") == Some(true) {
            let remove = self.command(&["network", "rm", &name])?;
            self.execute("ExecStopPost", &remove);
        }
        let mut create = self.command(&["network", "create", "--ignore"])?;
        let all = |key| self.source.unit.all(self.section(), key);
        let (subnets, gateways, ranges) = (all("Subnet"), all("Gateway"), all("IPRange"));
        if subnets.is_empty() && !(gateways.is_empty() && ranges.is_empty()) {
            return Err("cannot set gateway or range without subnet".to_owned());
        }
        for (others, what) in [(&gateways, "gateways"), (&ranges, "ranges")] {
            if others.len() > subnets.len() {
                return Err(format!("cannot set more {what} than subnets"));
            }
        }
        for (number, subnet) in subnets.iter().enumerate() {
            create.add(["--subnet", subnet]);
            gateways.get(number).into_iter().for_each(|gateway| create.add(["--gateway", gateway]));
            ranges.get(number).into_iter().for_each(|range| create.add(["--ip-range", range]));
        }
        self.apply_rules(&mut create)?;
        self.add_arguments(&mut create)?;
        create.add([name]);
        self.execute("ExecStart", &create);
        self.add_oneshot(true);
        Ok(())
    }

    pub(super) fn image(&mut self) -> Result<(), String> {
        let image = self.filled("Image").ok_or("no Image key specified")?.to_owned();
        let mut pull = self.command(&["image", "pull"])?;
        self.apply_rules(&mut pull)?;
        self.add_arguments(&mut pull)?;
        pull.add([self.image_named(&image)?]);
        self.execute("ExecStart", &pull);
        self.add_oneshot(true);
        Ok(())
    }
}
