//! The configuration of an image while it is built, as JSON: what OCI does not specify is kept.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use storage::image::index::Platform;

/// Where programs are looked for if nobody says.
pub(crate) const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// An image's configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Config {
    image: Map<String, Value>,
    /// CMD was given in this stage.
    has_cmd: bool,
}

impl Config {
    /// Of nothing.
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let mut image = Map::new();
        image.insert("architecture".to_owned(), json!(platform.architecture));
        image.insert("os".to_owned(), json!(platform.os));
        if let Some(variant) = &platform.variant {
            image.insert("variant".to_owned(), json!(variant));
        }
        image.insert("config".to_owned(), json!({}));
        let mut config = Config { image, has_cmd: false };
        config.complete();
        config
    }

    /// Of an image.
    pub(crate) fn of_image(raw: &[u8]) -> serde_json::Result<Self> {
        let mut image: Map<String, Value> = serde_json::from_slice(raw)?;
        // These speak of the container that the image was made from.
        for name in ["id", "parent", "container", "container_config", "comment", "docker_version"] {
            image.remove(name);
        }
        let mut config = Config { image, has_cmd: false };
        config.complete();
        Ok(config)
    }

    /// Another stage begins: what was given in the last one is as if it came from an image.
    pub(crate) fn begin_stage(&mut self) {
        self.has_cmd = false;
    }

    fn complete(&mut self) {
        if !self.image.get("config").is_some_and(Value::is_object) {
            self.image.insert("config".to_owned(), json!({}));
        }
        if !self.env().iter().any(|variable| variable.starts_with("PATH=")) {
            let mut env = self.env();
            env.insert(0, DEFAULT_PATH.to_owned());
            self.set("Env", json!(env));
        }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.image.get("config")?.get(name).filter(|value| !value.is_null())
    }

    fn set(&mut self, name: &str, value: Value) {
        if let Some(config) = self.image.get_mut("config").and_then(Value::as_object_mut) {
            match value {
                Value::Null => config.remove(name),
                value => config.insert(name.to_owned(), value),
            };
        }
    }

    fn strings(&self, name: &str) -> Vec<String> {
        let list = self.get(name).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|one| Some(one.as_str()?.to_owned())).collect()
    }

    fn text(&self, name: &str) -> String {
        self.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
    }

    /// `NAME=VALUE`, in order.
    pub(crate) fn env(&self) -> Vec<String> {
        self.strings("Env")
    }

    /// One variable.
    pub(crate) fn variable(&self, name: &str) -> Option<String> {
        let env = self.get("Env").and_then(Value::as_array)?;
        env.iter()
            .filter_map(Value::as_str)
            .find_map(|one| one.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
    }

    /// Sets a variable where it stands, or at the end.
    pub(crate) fn set_variable(&mut self, name: &str, value: &str) {
        let mut env = self.env();
        let pair = format!("{name}={value}");
        match env.iter_mut().find(|one| one.split('=').next() == Some(name)) {
            Some(one) => *one = pair,
            None => env.push(pair),
        }
        self.set("Env", json!(env));
    }

    /// Takes variables away.
    pub(crate) fn unset_variable(&mut self, name: &str) {
        let mut env = self.env();
        env.retain(|one| one.split('=').next() != Some(name));
        self.set("Env", json!(env));
    }

    /// Sets a label.
    pub(crate) fn set_label(&mut self, name: &str, value: &str) {
        let mut labels = self.get("Labels").and_then(Value::as_object).cloned().unwrap_or_default();
        labels.insert(name.to_owned(), json!(value));
        self.set("Labels", Value::Object(labels));
    }

    /// Takes a label away.
    pub(crate) fn unset_label(&mut self, name: &str) {
        let mut labels = self.get("Labels").and_then(Value::as_object).cloned().unwrap_or_default();
        labels.remove(name);
        self.set("Labels", if labels.is_empty() { Value::Null } else { Value::Object(labels) });
    }

    fn add_key(&mut self, name: &str, key: &str) {
        let mut all = self.get(name).and_then(Value::as_object).cloned().unwrap_or_default();
        all.insert(key.to_owned(), json!({}));
        self.set(name, Value::Object(all));
    }

    /// EXPOSE, with its protocol.
    pub(crate) fn expose(&mut self, port: &str) {
        self.add_key("ExposedPorts", port);
    }

    /// VOLUME.
    pub(crate) fn add_volume(&mut self, path: &str) {
        self.add_key("Volumes", path);
    }

    /// USER.
    pub(crate) fn user(&self) -> String {
        self.text("User")
    }

    /// USER.
    pub(crate) fn set_user(&mut self, user: &str) {
        self.set("User", json!(user));
    }

    /// WORKDIR: absolute.
    pub(crate) fn workdir(&self) -> String {
        match self.text("WorkingDir") {
            path if path.starts_with('/') => path,
            path => format!("/{path}"),
        }
    }

    /// WORKDIR.
    pub(crate) fn set_workdir(&mut self, path: &str) {
        self.set("WorkingDir", json!(path));
    }

    /// SHELL, or what it is without one.
    pub(crate) fn shell(&self) -> Vec<String> {
        match self.strings("Shell") {
            shell if shell.is_empty() => vec!["/bin/sh".to_owned(), "-c".to_owned()],
            shell => shell,
        }
    }

    /// SHELL.
    pub(crate) fn set_shell(&mut self, shell: &[String]) {
        self.set("Shell", json!(shell));
    }

    /// CMD.
    pub(crate) fn set_cmd(&mut self, cmd: &[String]) {
        self.set("Cmd", json!(cmd));
        self.has_cmd = true;
    }

    /// ENTRYPOINT: a command that was made for the one before is taken away.
    pub(crate) fn set_entrypoint(&mut self, entrypoint: &[String]) {
        self.set("Entrypoint", if entrypoint.is_empty() { Value::Null } else { json!(entrypoint) });
        if !self.has_cmd {
            self.set("Cmd", Value::Null);
        }
    }

    /// STOPSIGNAL.
    pub(crate) fn set_stop_signal(&mut self, signal: &str) {
        self.set("StopSignal", json!(signal));
    }

    /// HEALTHCHECK.
    pub(crate) fn set_healthcheck(&mut self, check: Value) {
        self.set("Healthcheck", check);
    }

    /// ONBUILD.
    pub(crate) fn add_trigger(&mut self, trigger: &str) {
        let mut triggers = self.strings("OnBuild");
        triggers.push(trigger.to_owned());
        self.set("OnBuild", json!(triggers));
    }

    /// The triggers of the image below, which are for the first image made from it.
    pub(crate) fn take_triggers(&mut self) -> Vec<String> {
        let triggers = self.strings("OnBuild");
        self.set("OnBuild", Value::Null);
        triggers
    }

    /// MAINTAINER.
    pub(crate) fn set_author(&mut self, author: &str) {
        self.image.insert("author".to_owned(), json!(author));
    }

    /// The machine it is for.
    pub(crate) fn platform(&self) -> Platform {
        let text = |name: &str| self.image.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut platform = Platform::host();
        if let (Some(os), Some(architecture)) = (text("os"), text("architecture")) {
            (platform.os, platform.architecture, platform.variant) = (os, architecture, text("variant"));
        }
        platform
    }

    /// A step of this build joins the history.
    pub(crate) fn add_history(&mut self, created: &str, created_by: &str, comment: &str, is_empty: bool) {
        let mut entry = json!({"created": created, "created_by": created_by});
        if !comment.is_empty() {
            entry["comment"] = json!(comment);
        }
        if is_empty {
            entry["empty_layer"] = json!(true);
        }
        if let Value::Array(history) = self.image.entry("history").or_insert_with(|| json!([])) {
            history.push(entry);
        }
    }

    /// The steps after the first `kept` that have a layer became one: only the last of them has it now.
    pub(crate) fn squash_history(&mut self, kept: usize) {
        let Some(history) = self.image.get_mut("history").and_then(Value::as_array_mut) else { return };
        let with_layer = |entry: &Value| entry["empty_layer"] != json!(true);
        let last = history.iter().rposition(with_layer);
        let mut seen = 0;
        for (at, entry) in history.iter_mut().enumerate().filter(|(_, entry)| with_layer(entry)) {
            seen += 1;
            if seen > kept && Some(at) != last {
                entry["empty_layer"] = json!(true);
            }
        }
    }

    /// When the last step was built.
    pub(crate) fn last_created(&self) -> Option<String> {
        let history = self.image.get("history")?.as_array()?;
        Some(history.last()?.get("created")?.as_str()?.to_owned())
    }

    /// The bytes of the configuration of an image with these layers.
    pub(crate) fn to_bytes(&self, created: &str, diff_ids: &[String], history: History) -> serde_json::Result<Vec<u8>> {
        let mut image = self.image.clone();
        image.insert("created".to_owned(), json!(created));
        image.insert("rootfs".to_owned(), json!({"type": "layers", "diff_ids": diff_ids}));
        let steps = image.get("history").and_then(Value::as_array).cloned().unwrap_or_default();
        let layers = steps.iter().filter(|step| step["empty_layer"] != json!(true)).count();
        match history {
            // Without a step for each layer it would say nothing true.
            History::Kept if layers == diff_ids.len() => {}
            History::One(created_by) => {
                image.insert("history".to_owned(), json!([{"created": created, "created_by": created_by}]));
            }
            History::Kept | History::Omitted => {
                image.remove("history");
            }
        }
        serde_json::to_vec(&image)
    }
}

/// What becomes of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum History {
    /// It is as it came about.
    Kept,
    /// There is none.
    Omitted,
    /// All layers became one.
    One(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entrypoint_takes_away_the_command_of_the_image_and_not_that_of_the_stage() {
        let raw = br#"{"os":"linux","architecture":"amd64","config":{"Cmd":["old"],"Env":["A=1"]}}"#;
        let mut config = Config::of_image(raw).unwrap();
        assert_eq!(config.env(), [DEFAULT_PATH, "A=1"]);
        config.set_entrypoint(&["a".to_owned()]);
        assert!(config.get("Cmd").is_none());
        config.set_cmd(&["b".to_owned()]);
        config.set_entrypoint(&["c".to_owned()]);
        assert_eq!(config.strings("Cmd"), ["b"]);
        config.begin_stage();
        config.set_entrypoint(&["d".to_owned()]);
        assert!(config.get("Cmd").is_none());
    }

    #[test]
    fn variables_keep_their_place_and_history_matches_the_layers() {
        let mut config = Config::scratch(&Platform::host());
        config.set_variable("A", "1");
        config.set_variable("B", "2");
        config.set_variable("A", "3");
        assert_eq!(config.env(), [DEFAULT_PATH, "A=3", "B=2"]);
        assert_eq!(config.variable("B").as_deref(), Some("2"));
        config.unset_variable("A");
        assert_eq!(config.variable("A"), None);
        config.add_history("t", "RUN x", "", false);
        config.add_history("t", "ENV y", "", true);
        let json = |layers: &[String]| -> Value {
            serde_json::from_slice(&config.to_bytes("t", layers, History::Kept).unwrap()).unwrap()
        };
        assert_eq!(json(&["sha256:a".to_owned()])["history"].as_array().unwrap().len(), 2);
        assert!(json(&[])["history"].is_null());
        config.add_history("t", "RUN z", "", false);
        config.add_history("t", "RUN last", "", false);
        config.squash_history(1);
        let json: Value = serde_json::from_slice(
            &config.to_bytes("t", &["sha256:a".to_owned(), "sha256:b".to_owned()], History::Kept).unwrap(),
        )
        .unwrap();
        let empty: Vec<bool> = json["history"].as_array().unwrap().iter().map(|e| e["empty_layer"] == true).collect();
        assert_eq!(empty, [false, true, true, false]);
    }
}
