//! Recognises the keys that detach a client from its container, in the bytes that its terminal sends.
//!
//! ```text
//!  sequence ^P ^Q          ^P                    ^Q
//!                 [0 keys] ──▶ [1 key, ^P held] ──▶ detached
//!                    ▲  other: pass    │ other: pass ^P and go back to the longest beginning
//!                    └─────────────────┘ that the held keys still end with
//! ```
//! Keys that turn out to be no detaching are passed on, all of them and in order. As in docker, a held key waits for
//! the next one, not for a clock.

use std::str::FromStr;

/// A sequence longer than this is a mistake; it also travels in a message.
const MAX_KEYS: usize = 16;

/// A text that describes no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadKeys {
    /// Neither one character nor `ctrl-` with a letter or one of `@[\]^_`.
    #[error("invalid detach keys: unknown key: {0:?}")]
    UnknownKey(String),
    /// More than 16 keys.
    #[error("invalid detach keys: more than {MAX_KEYS} keys")]
    TooLong,
}

/// The keys that detach, and how many of them have been pressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    sequence: Vec<u8>,
    matched: usize,
}

/// `ctrl-p,ctrl-q`.
impl Default for DetachKeys {
    fn default() -> Self {
        Self { sequence: vec![0x10, 0x11], matched: 0 }
    }
}

/// Reads `--detach-keys`: keys separated by commas, each one character, `DEL`, or `ctrl-` with a letter or one of
/// `@[\]^_`. Empty: no keys detach.
impl FromStr for DetachKeys {
    type Err = BadKeys;

    fn from_str(text: &str) -> Result<Self, BadKeys> {
        if text.is_empty() {
            return Ok(Self::none());
        }
        let keys: Result<Vec<u8>, BadKeys> =
            text.split(',').map(|key| code(key).ok_or_else(|| BadKeys::UnknownKey(key.to_owned()))).collect();
        Self::from_bytes(&keys?)
    }
}

/// The byte that a terminal sends for a key.
fn code(key: &str) -> Option<u8> {
    if let [single] = key.as_bytes() {
        return Some(*single);
    }
    if key == "DEL" {
        return Some(0x7f);
    }
    match key.strip_prefix("ctrl-")?.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(letter & 0x1f),
        [sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => Some(sign & 0x1f),
        _ => None,
    }
}

impl DetachKeys {
    /// No keys detach.
    #[must_use]
    pub fn none() -> Self {
        Self { sequence: Vec::new(), matched: 0 }
    }

    /// The keys as the bytes that a terminal sends.
    ///
    /// # Errors
    /// [`BadKeys::TooLong`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, BadKeys> {
        if bytes.len() > MAX_KEYS {
            return Err(BadKeys::TooLong);
        }
        Ok(Self { sequence: bytes.to_vec(), matched: 0 })
    }

    /// The bytes that a terminal sends for the sequence.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.sequence
    }

    /// Takes `input` and appends to `passed` what the container shall see. True when the sequence is complete; what
    /// came after it is dropped.
    pub fn feed(&mut self, input: &[u8], passed: &mut Vec<u8>) -> bool {
        if self.sequence.is_empty() {
            passed.extend_from_slice(input);
            return false;
        }
        for &byte in input {
            while self.matched > 0 && self.sequence.get(self.matched) != Some(&byte) {
                let kept = self.longest_border();
                passed.extend(self.sequence.iter().take(self.matched - kept));
                self.matched = kept;
            }
            if self.sequence.get(self.matched) == Some(&byte) {
                self.matched += 1;
            } else {
                passed.push(byte);
            }
            if self.matched == self.sequence.len() {
                self.matched = 0;
                return true;
            }
        }
        false
    }

    /// Length of the longest proper beginning of the sequence with which the matched keys end.
    fn longest_border(&self) -> usize {
        let matched = self.sequence.get(..self.matched).unwrap_or_default();
        (0..self.matched).rev().find(|len| matched.ends_with(matched.get(..*len).unwrap_or_default())).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(keys: &str, inputs: &[&str]) -> (String, bool) {
        let mut keys: DetachKeys = keys.parse().unwrap();
        let mut passed = Vec::new();
        let detached = inputs.iter().any(|input| keys.feed(input.as_bytes(), &mut passed));
        (String::from_utf8(passed).unwrap(), detached)
    }

    #[test]
    fn sequences_are_read_as_docker_writes_them() {
        for (text, bytes) in [
            ("ctrl-p,ctrl-q", &[0x10, 0x11][..]),
            ("ctrl-@", &[0]),
            ("ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_", &[0x1b, 0x1c, 0x1d, 0x1e, 0x1f]),
            ("a,b,Z", b"abZ"),
            ("DEL", &[0x7f]),
            ("", &[]),
        ] {
            assert_eq!(text.parse::<DetachKeys>().unwrap().as_bytes(), bytes, "{text}");
        }
        assert_eq!(DetachKeys::default(), "ctrl-p,ctrl-q".parse().unwrap());
        for bad in ["ctrl-", "ctrl-P", "ctrl-ab", ",", "a,", "alt-x", "ä"] {
            assert!(matches!(bad.parse::<DetachKeys>(), Err(BadKeys::UnknownKey(_))), "{bad}");
        }
        let long = ["a"; 17].join(",");
        assert_eq!(long.parse::<DetachKeys>(), Err(BadKeys::TooLong));
    }

    #[test]
    fn partial_sequences_pass_through_complete_and_in_order() {
        // keys, inputs, what the container sees, detached
        let cases: &[(&str, &[&str], &str, bool)] = &[
            ("a,b", &["xaby"], "x", true),
            ("a,b", &["x", "a", "b"], "x", true),
            ("a,b", &["a"], "", false),
            ("a,b", &["a", "c"], "ac", false),
            ("a,b", &["aab"], "a", true),
            ("a,b", &["a", "a", "c"], "aac", false),
            ("a,a,b", &["aaab"], "a", true),
            ("a,b,a,c", &["ababac"], "ab", true),
            ("a,b,a,b,c", &["abababc"], "ab", true),
            ("a", &["xa"], "x", true),
            ("", &["ab\u{10}\u{11}"], "ab\u{10}\u{11}", false),
        ];
        for (keys, inputs, passed, detached) in cases {
            assert_eq!(run(keys, inputs), ((*passed).to_owned(), *detached), "{keys} {inputs:?}");
        }
    }

    /// Every input of length 7 over three letters, for several sequences: the machine agrees with a search.
    #[test]
    fn the_machine_agrees_with_a_search_for_every_short_input() {
        for keys in ["a,b", "a,a", "a,b,a", "a,a,b", "a,b,a,b"] {
            let sequence = String::from_utf8(keys.parse::<DetachKeys>().unwrap().as_bytes().to_vec()).unwrap();
            for number in 0..3u32.pow(7) {
                let input: String =
                    (0..7).map(|place| ['a', 'b', 'c'][(number / 3u32.pow(place) % 3) as usize]).collect();
                let (passed, detached) = run(keys, &[&input]);
                match input.find(&sequence) {
                    Some(at) => assert_eq!((passed.as_str(), detached), (&input[..at], true), "{keys} {input}"),
                    None => {
                        assert!(!detached);
                        let held = input.strip_prefix(&passed).unwrap();
                        assert!(sequence.starts_with(held), "{keys} {input} {passed}");
                    }
                }
            }
        }
    }
}
