//! `--chmod`: octal and symbolic modes.

/// `--chmod`: what becomes of permission bits, given them and whether the file is a directory.
#[derive(Clone, Debug)]
pub enum Chmod {
    /// These.
    Fixed(u32),
    /// Symbolic clauses, one after the other.
    Symbolic(Vec<Clause>),
}

/// One clause of a symbolic mode, `u+rwX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    who: u32,
    op: u8,
    bits: u32,
    /// `X`: execution only for directories and what somebody may execute already.
    conditional: bool,
    special: u32,
}

impl Chmod {
    /// Reads an octal or symbolic mode.
    pub fn parse(text: &str) -> Option<Chmod> {
        if let Ok(mode) = u32::from_str_radix(text, 8) {
            return (mode <= 0o7777 && !text.starts_with('+')).then_some(Chmod::Fixed(mode));
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            let start = clause.find(['+', '-', '='])?;
            let who = clause[..start].bytes().try_fold(0, |who, byte| {
                Some(
                    who | match byte {
                        b'u' => 0o4700,
                        b'g' => 0o2070,
                        b'o' => 0o1007,
                        b'a' => 0o7777,
                        _ => return None,
                    },
                )
            })?;
            let who = if who == 0 { 0o7777 } else { who };
            let mut rest = &clause.as_bytes()[start..];
            while let [op @ (b'+' | b'-' | b'='), tail @ ..] = rest {
                let len = tail.iter().position(|byte| b"+-=".contains(byte)).unwrap_or(tail.len());
                let (mut bits, mut special, mut conditional) = (0, 0, false);
                for byte in &tail[..len] {
                    match byte {
                        b'r' => bits |= 0o444,
                        b'w' => bits |= 0o222,
                        b'x' => bits |= 0o111,
                        b'X' => conditional = true,
                        b's' => special |= 0o6000 & who,
                        b't' => special |= 0o1000,
                        _ => return None,
                    }
                }
                clauses.push(Clause { who, op: *op, bits, conditional, special });
                rest = &tail[len..];
            }
        }
        Some(Chmod::Symbolic(clauses))
    }

    /// The bits of a file that had `mode`.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Chmod::Fixed(mode) => *mode,
            Chmod::Symbolic(clauses) => clauses.iter().fold(mode, |mode, clause| {
                let executes = clause.conditional && (is_directory || mode & 0o111 != 0);
                let bits = (clause.bits | if executes { 0o111 } else { 0 }) & clause.who & 0o777 | clause.special;
                match clause.op {
                    b'+' => mode | bits,
                    b'-' => mode & !bits,
                    _ => mode & !(clause.who & 0o777) | bits,
                }
            }),
        }
    }
}
