//! Names without a registry.

use super::{Registries, ShortNameMode};
use crate::reference::{DOCKER_HUB, Reference};

impl Registries {
    /// The references that `typed` may mean, in the order in which they are to be tried; at least one.
    ///
    /// A name with a registry means itself; `library/` goes with Docker Hub alone. Nobody is ever asked a question.
    pub fn meanings(&self, typed: &str, parsed: &Reference) -> Vec<Reference> {
        if is_qualified(typed, parsed) {
            return vec![parsed.clone()];
        }
        let end = typed.find('@').unwrap_or(typed.len());
        let end = typed[..end].rfind(':').filter(|colon| !typed[*colon..end].contains('/')).unwrap_or(end);
        let (name, version) = typed.split_at(end);
        if let Some(alias) = self.aliases.get(name) {
            return Reference::parse(&format!("{alias}{version}")).map_or_else(|_| vec![parsed.clone()], |it| vec![it]);
        }
        let registries = self.unqualified.as_deref().unwrap_or_default();
        let found = registries.iter().filter_map(|registry| Reference::parse(&format!("{registry}/{typed}")).ok());
        let found: Vec<_> = found.collect();
        if found.is_empty() { vec![parsed.clone()] } else { found }
    }

    /// Whether a name with several meanings is refused where nobody can be asked.
    pub fn is_enforcing(&self) -> bool {
        self.short_name_mode == Some(ShortNameMode::Enforcing)
    }
}

/// Whether a registry was typed.
fn is_qualified(typed: &str, parsed: &Reference) -> bool {
    parsed.registry() != DOCKER_HUB || typed.starts_with("docker.io/") || typed.starts_with("index.docker.io/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_looked_up_and_searched_for() {
        let mut all =
            Registries { unqualified: Some(vec!["a.io".into(), "docker.io".into()]), ..Registries::default() };
        all.aliases.insert("tool".into(), "c.io/our/tool".into());
        let digest = format!("@sha256:{}", "b".repeat(64));
        for (typed, expected) in [
            ("nginx", vec!["a.io/nginx", "docker.io/library/nginx"]),
            ("me/x:1", vec!["a.io/me/x:1", "docker.io/me/x:1"]),
            ("docker.io/nginx", vec!["docker.io/library/nginx"]),
            ("b.io/x", vec!["b.io/x"]),
            ("localhost/x", vec!["localhost/x"]),
            ("tool", vec!["c.io/our/tool"]),
            ("tool:1", vec!["c.io/our/tool:1"]),
            (&format!("tool{digest}"), vec![&*format!("c.io/our/tool{digest}")]),
            (&format!("tool:1{digest}"), vec![&*format!("c.io/our/tool:1{digest}")]),
        ] {
            let found = all.meanings(typed, &Reference::parse(typed).unwrap());
            let expected: Vec<_> = expected.iter().map(|text| Reference::parse(text).unwrap()).collect();
            assert_eq!(found, expected, "{typed}");
        }
        assert_eq!(Registries::default().meanings("nginx", &Reference::parse("nginx").unwrap()).len(), 1);
    }
}
