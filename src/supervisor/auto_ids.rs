//! `--userns auto`: a range of the user's subordinate ids for each container, apart from those of the others.
//!
//! The lowest free range is taken, so that a range, and with it the layers unpacked for it, is used again when its
//! container is gone.
//!
//! **Runs in:** the CLI, on the host.

use storage::state::container::{self, Record};
use storage::state::layout::Layout;
use storage::state::lock::FileLock;
use storage::state::request::UserNamespace;

use super::rootfs::View;
use crate::error::CommandError;

/// What a container gets whose image needs no more; podman's default.
const MIN_SIZE: u32 = 1024;

/// Most images name it, and hardly any has a file of it.
const NOBODY: u32 = 65_534;

/// First id and number of ids, in the user's base user namespace. Id 0 there is the user and never part of a range.
type Range = (u32, u32);

/// Chooses the range of a container that has none yet. The lock is to be held until its record is published.
pub(crate) fn choose(
    layout: &Layout,
    record: &mut Record,
    available: u64,
    image: &View,
) -> Result<Option<FileLock>, CommandError> {
    let UserNamespace::Auto { size, first: first @ None } = &mut record.request.userns else { return Ok(None) };
    let wanted = size.unwrap_or_else(|| guess(image, &record.request.user)).max(1);
    let lock = FileLock::exclusive(&layout.auto_ids_lock()).map_err(CommandError::host)?;
    let (records, _) = container::list(layout).map_err(CommandError::host)?;
    let taken = records.iter().filter_map(|other| match other.request.userns {
        UserNamespace::Auto { size: Some(size), first: Some(first) } => Some((first, size)),
        _ => None,
    });
    let end = u32::try_from(available).unwrap_or(u32::MAX);
    let found = lowest_free(taken.collect(), wanted, end).ok_or_else(|| {
        CommandError::host(format!(
            "--userns auto: no {wanted} subordinate ids in a row are free: other containers have most of the {}",
            end.saturating_sub(1)
        ))
    })?;
    (*size, *first) = (Some(wanted), Some(found));
    Ok(Some(lock))
}

/// The first id from which `size` ids below `end` are free.
fn lowest_free(mut taken: Vec<Range>, size: u32, end: u32) -> Option<u32> {
    taken.sort_unstable();
    let mut first = 1_u32;
    for (start, length) in taken {
        if first.checked_add(size)? <= start {
            break;
        }
        first = first.max(start.saturating_add(length));
    }
    (first.checked_add(size)? <= end).then_some(first)
}

/// How many ids the image's users and groups and the container's own user need.
fn guess(image: &View, user: &str) -> u32 {
    let mut most = MIN_SIZE - 1;
    for path in ["/etc/passwd", "/etc/group"] {
        let text = image.read(path).unwrap_or_default();
        let ids = String::from_utf8_lossy(&text).lines().flat_map(|line| ids_of(line, path)).collect::<Vec<_>>();
        most = ids.into_iter().filter(|id| *id != NOBODY).fold(most, u32::max);
    }
    let asked = user.split(':').filter_map(|part| part.parse::<u32>().ok());
    asked.fold(most, u32::max).saturating_add(1)
}

fn ids_of(line: &str, path: &str) -> Vec<u32> {
    let fields = if path == "/etc/passwd" { 2 } else { 1 };
    line.split(':').skip(2).take(fields).filter_map(|field| field.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_gap_that_is_wide_enough_is_taken() {
        let none = Vec::new;
        assert_eq!(lowest_free(none(), 1024, 65_537), Some(1));
        assert_eq!(lowest_free(none(), 65_536, 65_537), Some(1));
        assert_eq!(lowest_free(none(), 65_537, 65_537), None);
        assert_eq!(lowest_free(vec![(1, 1024)], 1024, 65_537), Some(1025));
        assert_eq!(lowest_free(vec![(2049, 1024), (1, 1024)], 1024, 65_537), Some(1025));
        assert_eq!(lowest_free(vec![(2049, 1024), (1, 1024)], 1025, 65_537), Some(3073));
        assert_eq!(lowest_free(vec![(1025, 1024)], 1024, 65_537), Some(1));
        assert_eq!(lowest_free(vec![(1, 65_000)], 1024, 65_537), None);
        assert_eq!(lowest_free(vec![(1, u32::MAX)], 1, u32::MAX), None);
    }

    #[test]
    fn ids_of_users_and_groups_are_read() {
        assert_eq!(ids_of("app:x:1234:77::/home/app:/bin/sh", "/etc/passwd"), [1234, 77]);
        assert_eq!(ids_of("tty:x:5:8,9", "/etc/group"), [5]);
        assert_eq!(ids_of("broken", "/etc/group"), [0_u32; 0]);
    }
}
