//! Whether the name in a signature is the one that was asked for.

use super::file::Identity;
use crate::reference::Reference;

/// Compares `signed`, a signature's name, with the image that was asked for.
///
/// # Errors
/// Why they differ.
pub(super) fn check(identity: Option<&Identity>, asked: &Reference, signed: &str) -> Result<(), String> {
    let differs = || format!("the signature is for {}", signed.escape_debug());
    let found = Reference::parse(signed).map_err(|_| differs())?;
    let is_exact = |asked: &Reference| {
        let asked = asked.clone().with_default_tag();
        found.name() == asked.name() && found.tag().is_some() && found.tag() == asked.tag()
    };
    let is_good = match identity.unwrap_or(&Identity::MatchRepoDigestOrExact {}) {
        Identity::MatchExact {} => is_exact(asked),
        Identity::MatchRepoDigestOrExact {} => is_exact_or_digest(asked, &found, is_exact(asked)),
        Identity::MatchRepository {} => found.name() == asked.name(),
        Identity::ExactReference { docker_reference } => {
            let wanted = Reference::parse(docker_reference).map_err(|error| error.to_string())?;
            found.name() == wanted.name() && found.tag() == wanted.tag() && found.digest() == wanted.digest()
        }
        Identity::ExactRepository { docker_repository } => {
            let wanted = Reference::parse(docker_repository).map_err(|error| error.to_string())?;
            found.name() == wanted.name()
        }
        Identity::RemapIdentity { prefix, signed_prefix } => {
            let asked = remap(asked, prefix, signed_prefix)?;
            let is_exact = is_exact(&asked);
            is_exact_or_digest(&asked, &found, is_exact)
        }
    };
    if is_good { Ok(()) } else { Err(differs()) }
}

fn is_exact_or_digest(asked: &Reference, found: &Reference, is_exact: bool) -> bool {
    match asked.tag().is_none() && asked.digest().is_some() {
        true => found.name() == asked.name(),
        false => is_exact,
    }
}

fn remap(asked: &Reference, prefix: &str, signed_prefix: &str) -> Result<Reference, String> {
    let text = asked.to_string();
    match text.strip_prefix(prefix) {
        Some(rest) if rest.is_empty() || rest.starts_with(['/', ':', '@']) => {
            Reference::parse(&format!("{signed_prefix}{rest}")).map_err(|error| error.to_string())
        }
        _ => Ok(asked.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_the_identity_says() {
        let digest = format!("@sha256:{}", "a".repeat(64));
        let by_digest = format!("a.io/x{digest}");
        let remap = || Identity::RemapIdentity { prefix: "mirror.io/a".into(), signed_prefix: "a.io".into() };
        for (identity, asked, signed, expected) in [
            (None, "a.io/x:1", "a.io/x:1", true),
            (None, "a.io/x", "a.io/x:latest", true),
            (None, "a.io/x:1", "a.io/x:2", false),
            (None, "a.io/x:1", "a.io/x", false),
            (None, &*by_digest, "a.io/x:2", true),
            (None, &*by_digest, "a.io/y:2", false),
            (Some(Identity::MatchExact {}), &*by_digest, "a.io/x:2", false),
            (Some(Identity::MatchRepository {}), "a.io/x:1", "a.io/x", true),
            (Some(Identity::MatchRepository {}), "a.io/x:1", "a.io/x/y", false),
            (Some(Identity::ExactReference { docker_reference: "b.io/x:1".into() }), "a.io/x:1", "b.io/x:1", true),
            (Some(Identity::ExactRepository { docker_repository: "b.io/x".into() }), "a.io/x:1", "b.io/x:7", true),
            (Some(remap()), "mirror.io/a/x:1", "a.io/x:1", true),
            (Some(remap()), "mirror.io/ab/x:1", "a.io/x:1", false),
            (None, "a.io/x:1", "not a name", false),
        ] {
            let verdict = check(identity.as_ref(), &Reference::parse(asked).unwrap(), signed);
            assert_eq!(verdict.is_ok(), expected, "{identity:?} {asked} {signed}: {verdict:?}");
        }
    }
}
