//! The two ways to ask for a file's flags: `FS_IOC_GETFLAGS` and `FS_IOC_FSGETXATTR`, and to set them.
//!
//! # Source
//! Linux `include/uapi/linux/fs.h`; `ioctl_iflags(2)`.

const GET_FLAGS: u32 = 0x8008_6601;
const SET_FLAGS: u32 = 0x4008_6602;
const GET_EXTENDED: u32 = 0x801c_581f;
const SET_EXTENDED: u32 = 0x401c_5820;

/// Each flag in both spellings: `FS_*_FL` and `FS_XFLAG_*`.
const FLAGS: [(u32, u32); 6] = [
    (0x08, 0x20),         // synchronous
    (0x10, 0x08),         // immutable
    (0x20, 0x10),         // append only
    (0x40, 0x80),         // not dumped
    (0x80, 0x40),         // access times not kept
    (0x2000_0000, 0x200), // children inherit the project
];

/// An ioctl on a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    GetFlags,
    SetFlags(u32),
    GetExtended,
    SetExtended(u32),
}

impl Command {
    /// `None` for a command that files do not have, or that asks for a project or extent size: there are none.
    pub(crate) fn parse(command: u32, input: &[u8]) -> Option<Self> {
        let number = |at: usize| Some(u32::from_ne_bytes(*input.get(at..)?.first_chunk()?));
        match command {
            GET_FLAGS => Some(Self::GetFlags),
            SET_FLAGS => Some(Self::SetFlags(number(0)?)),
            GET_EXTENDED => Some(Self::GetExtended),
            SET_EXTENDED => {
                let (extended, extent_bytes, project) = (number(0)?, number(4)?, number(12)?);
                let known = FLAGS.iter().fold(0, |all, (_, extended)| all | extended);
                if extended & !known != 0 || extent_bytes != 0 || project != 0 {
                    return None;
                }
                let flags = FLAGS.iter().filter(|(_, bit)| extended & bit != 0).fold(0, |all, (bit, _)| all | bit);
                Some(Self::SetExtended(flags))
            }
            _ => None,
        }
    }
}

/// `struct fsxattr`: flags, no extent size, one extent count of nobody's interest, no project.
pub(crate) fn extended(flags: u32) -> [u8; 28] {
    let extended = FLAGS.iter().filter(|(bit, _)| flags & bit != 0).fold(0u32, |all, (_, bit)| all | bit);
    let mut bytes = [0; 28];
    if let Some(first) = bytes.first_chunk_mut() {
        *first = extended.to_ne_bytes();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_of_a_flag_mean_the_same() {
        let bytes = extended(0x10 | 0x40);
        assert_eq!(Command::parse(SET_EXTENDED, &bytes), Some(Command::SetExtended(0x10 | 0x40)));
        assert_eq!(Command::parse(SET_FLAGS, &0x10u32.to_ne_bytes()), Some(Command::SetFlags(0x10)));
    }

    #[test]
    fn projects_and_foreign_commands_are_refused() {
        let mut bytes = extended(0);
        bytes[12] = 1;
        assert_eq!(Command::parse(SET_EXTENDED, &bytes), None);
        assert_eq!(Command::parse(0x5401, &[]), None);
        assert_eq!(Command::parse(SET_FLAGS, &[1]), None);
    }
}
