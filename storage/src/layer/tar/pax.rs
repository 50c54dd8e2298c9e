//! Pax extended headers: `"%d %s=%s\n"` records, checked to the letter.

use super::{MAX_XATTRS, TarError, Timestamp, Xattr};
use std::collections::BTreeMap;

/// The records of pax headers that say something about a layer's entry; the others (comment, uname, atime …) are
/// checked for form and dropped.
#[derive(Clone, Debug, Default)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Timestamp>,
    xattrs: BTreeMap<Vec<u8>, XattrValue>,
    pub(super) sparse: SparseRecords,
}

/// `GNU.sparse.*`: all three forms of pax sparse files.
#[derive(Clone, Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// Numbers of a 0.0 or 0.1 map, in order: offset, length, offset, length …
    pub(super) map: Option<Vec<u64>>,
    /// A 0.0 map is spread over records, which must alternate.
    offset_is_open: bool,
}

#[derive(Clone, Debug)]
struct XattrValue {
    value: Vec<u8>,
    /// `SCHILY.xattr` beats `LIBARCHIVE.xattr`: bsdtar writes both with the same meaning.
    is_schily: bool,
}

/// Whose records they are: a global header speaks of all later entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    Local,
    Global,
}

impl Pax {
    /// Reads a header's records over the values it has: later records win.
    pub(super) fn extend(&mut self, records: &[u8], scope: Scope, offset: u64) -> Result<(), TarError> {
        let malformed = |what| TarError::Malformed { offset, what };
        let mut rest = records;
        while !rest.is_empty() {
            let (keyword, value, after) =
                split_record(rest).ok_or(malformed("a pax record is not \"length key=value\""))?;
            self.set(keyword, value, scope).map_err(malformed)?;
            rest = after;
        }
        if self.sparse.offset_is_open {
            return Err(malformed("GNU.sparse.offset without GNU.sparse.numbytes"));
        }
        if self.xattrs.len() > MAX_XATTRS {
            return Err(TarError::Limit {
                offset,
                what: "the number of extended attributes",
                limit: MAX_XATTRS as u64,
            });
        }
        Ok(())
    }

    pub(super) fn take_xattrs(&mut self) -> Vec<Xattr> {
        std::mem::take(&mut self.xattrs).into_iter().map(|(name, xattr)| (name, xattr.value)).collect()
    }

    fn set(&mut self, keyword: &[u8], value: &[u8], scope: Scope) -> Result<(), &'static str> {
        let is_per_entry = matches!(keyword, b"path" | b"linkpath" | b"size") || keyword.starts_with(b"GNU.sparse.");
        if scope == Scope::Global && is_per_entry {
            // Readers disagree whether it applies to all entries, to one or to none.
            return Err("a global pax header gives a name or a size");
        }
        match keyword {
            b"path" => self.path = name(value)?,
            b"linkpath" => self.link = name(value)?,
            b"size" => self.size = number(value)?,
            b"uid" => self.uid = number(value)?,
            b"gid" => self.gid = number(value)?,
            b"mtime" => self.mtime = timestamp(value)?,
            _ => {
                if let Some(field) = keyword.strip_prefix(b"GNU.sparse.") {
                    self.sparse.set(field, value)?;
                } else if let Some(xattr) = keyword.strip_prefix(b"SCHILY.xattr.") {
                    self.set_xattr(xattr.to_vec(), value.to_vec(), true)?;
                } else if let Some(xattr) = keyword.strip_prefix(b"LIBARCHIVE.xattr.") {
                    let xattr = percent_decoded(xattr).ok_or("a LIBARCHIVE.xattr name is not URL-encoded")?;
                    let value = base64_decoded(value).ok_or("a LIBARCHIVE.xattr value is not base64")?;
                    self.set_xattr(xattr, value, false)?;
                }
            }
        }
        Ok(())
    }

    fn set_xattr(&mut self, name: Vec<u8>, value: Vec<u8>, is_schily: bool) -> Result<(), &'static str> {
        if name.is_empty() || name.len() > 255 || name.contains(&0) {
            return Err("the name of an extended attribute is empty, longer than 255 bytes or has a NUL");
        }
        match self.xattrs.get(&name) {
            Some(known) if known.is_schily && !is_schily => {}
            _ => {
                self.xattrs.insert(name, XattrValue { value, is_schily });
            }
        }
        Ok(())
    }
}

impl SparseRecords {
    fn set(&mut self, field: &[u8], value: &[u8]) -> Result<(), &'static str> {
        const NOT_A_NUMBER: &str = "a GNU.sparse record is not a number";
        let required = |value| number(value)?.ok_or(NOT_A_NUMBER);
        match field {
            b"major" => self.major = Some(required(value)?),
            b"minor" => self.minor = Some(required(value)?),
            b"name" => self.name = name(value)?,
            b"size" | b"realsize" => {
                let size = required(value)?;
                if self.real_size.is_some_and(|known| known != size) {
                    return Err("GNU.sparse.size and GNU.sparse.realsize disagree");
                }
                self.real_size = Some(size);
            }
            b"numblocks" => {
                required(value)?;
            }
            b"offset" | b"numbytes" => {
                if self.offset_is_open == (field == b"offset") {
                    return Err("GNU.sparse.offset and GNU.sparse.numbytes do not alternate");
                }
                self.offset_is_open = field == b"offset";
                self.map.get_or_insert_default().push(required(value)?);
            }
            b"map" => {
                if self.map.is_some() {
                    return Err("two maps of one sparse file");
                }
                let numbers = value.split(|byte| *byte == b',').map(required).collect::<Result<Vec<_>, _>>()?;
                if !numbers.len().is_multiple_of(2) {
                    return Err("GNU.sparse.map has an odd count of numbers");
                }
                self.map = Some(numbers);
            }
            _ => return Err("an unknown GNU.sparse record"),
        }
        Ok(())
    }
}

/// Splits the first record off: keyword, value, rest.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = records.iter().take(20).position(|byte| *byte == b' ')?;
    let length = usize::try_from(decimal(&records[..space])?).ok()?;
    let record = records.get(space + 1..length)?;
    let rest = &records[length..];
    let record = record.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (keyword, value) = (&record[..equals], &record[equals + 1..]);
    (!keyword.is_empty() && !keyword.contains(&0)).then_some((keyword, value, rest))
}

/// A name; an empty value takes an earlier one back.
fn name(value: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    if value.contains(&0) {
        return Err("a name in a pax header has a NUL");
    }
    if value.len() as u64 > super::MAX_NAME_BYTES {
        return Err("a name in a pax header is longer than 65536 bytes");
    }
    Ok((!value.is_empty()).then(|| value.to_vec()))
}

fn number(value: &[u8]) -> Result<Option<u64>, &'static str> {
    if value.is_empty() {
        return Ok(None);
    }
    decimal(value).map(Some).ok_or("a pax number is not decimal or too large")
}

/// Decimal digits only: no sign, no space. At most `i64::MAX`, the largest file there can be.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    let mut value = 0_i64;
    for digit in digits {
        let digit = i64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        value = value.checked_mul(10)?.checked_add(digit)?;
    }
    u64::try_from(value).ok()
}

/// `[-]seconds[.fraction]`; digits after the ninth are cut.
fn timestamp(value: &[u8]) -> Result<Option<Timestamp>, &'static str> {
    const BAD: &str = "a pax time is not a decimal number";
    if value.is_empty() {
        return Ok(None);
    }
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let mut parts = value.splitn(2, |byte| *byte == b'.');
    let whole = parts.next().unwrap_or_default();
    let fraction = parts.next().unwrap_or_default();
    let secs = decimal(whole).and_then(|secs| i64::try_from(secs).ok()).ok_or(BAD)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let mut nanos = 0;
    for at in 0..9 {
        nanos = nanos * 10 + fraction.get(at).map_or(0, |digit| u32::from(digit - b'0'));
    }
    Ok(Some(match (negative, nanos) {
        (false, nanos) => Timestamp { secs, nanos },
        (true, 0) => Timestamp { secs: -secs, nanos },
        (true, nanos) => Timestamp { secs: -secs - 1, nanos: 1_000_000_000 - nanos },
    }))
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte == b'%' {
            let high = char::from(*bytes.next()?).to_digit(16)?;
            let low = char::from(*bytes.next()?).to_digit(16)?;
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

/// libarchive writes base64 without padding; others pad.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine as _;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&base64::alphabet::STANDARD, lenient).decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::super::writer::push_record;
    use super::*;

    fn records(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut records = Vec::new();
        for (key, value) in pairs {
            push_record(&mut records, key, value);
        }
        records
    }

    fn parse(records: &[u8]) -> Result<Pax, TarError> {
        let mut pax = Pax::default();
        pax.extend(records, Scope::Local, 0).map(|()| pax)
    }

    #[test]
    fn records_are_split_by_their_length_and_may_hold_newlines_and_equal_signs() {
        let mut pax = parse(b"12 path=a\nb\n13 size=1234\n23 SCHILY.xattr.u.x=a=\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a\nb"[..]));
        assert_eq!(pax.size, Some(1234));
        assert_eq!(pax.take_xattrs(), [(b"u.x".to_vec(), b"a=".to_vec())]);
    }

    #[test]
    fn malformed_records_are_errors() {
        for bad in [
            &b"11 path=abc\n"[..],
            b"13 path=abc\n",
            b"path=abc\n",
            b"12 path=abc ",
            b" 12 path=abc\n",
            b"-12 path=abc\n",
            b"7 path\n",
            b"6 =ab\n",
            b"0 ",
            b"12 path=abc\n\0\0\0",
            b"99999999999999999999999 path=abc\n",
        ] {
            assert!(parse(bad).is_err(), "{}", bad.escape_ascii());
        }
        for (key, value) in [
            (&b"path"[..], &b"a\0c"[..]),
            (b"size", b"12a4"),
            (b"size", b"-123"),
            (b"size", b" 123"),
            (b"size", b"+123"),
            (b"size", b"9223372036854775808"),
            (b"mtime", b"1.2.3"),
            (b"GNU.sparse.offset", b"12"),
            (b"GNU.sparse.numbytes", b"12"),
            (b"GNU.sparse.map", b"1,2,3"),
            (b"GNU.sparse.map", b""),
            (b"GNU.sparse.unknown", b"1"),
            (b"SCHILY.xattr.", b"1"),
            (b"SCHILY.xattr.a\0b", b"1"),
            (b"LIBARCHIVE.xattr.%4", b"aGk"),
            (b"LIBARCHIVE.xattr.user.a", b"a*k"),
        ] {
            assert!(parse(&records(&[(key, value)])).is_err(), "{}", key.escape_ascii());
        }
    }

    #[test]
    fn a_later_record_wins_and_an_empty_one_takes_back() {
        let pax = parse(&records(&[(b"size", b"1"), (b"size", b"2"), (b"path", b"a"), (b"path", b"")])).unwrap();
        assert_eq!((pax.size, pax.path), (Some(2), None));
    }

    #[test]
    fn times_before_1970_round_down() {
        let cases: &[(&[u8], i64, u32)] = &[
            (b"1.5", 1, 500_000_000),
            (b"-1.5", -2, 500_000_000),
            (b"-3", -3, 0),
            (b"1.1234567899", 1, 123_456_789),
            (b"7.", 7, 0),
        ];
        for (text, secs, nanos) in cases {
            assert_eq!(timestamp(text), Ok(Some(Timestamp { secs: *secs, nanos: *nanos })));
        }
        for bad in [&b".5"[..], b"1.5.5", b"1,5", b"--1", b"1e3", b"0x1"] {
            assert!(timestamp(bad).is_err());
        }
    }

    #[test]
    fn libarchive_spelling_of_an_xattr_is_decoded_and_yields_to_schily() {
        let pairs: &[(&[u8], &[u8])] = &[
            (b"LIBARCHIVE.xattr.user.%61", b"aGk"),
            (b"SCHILY.xattr.user.b", b"1"),
            (b"LIBARCHIVE.xattr.user.b", b"aGkhIQ=="),
        ];
        let xattrs = parse(&records(pairs)).unwrap().take_xattrs();
        assert_eq!(xattrs, [(b"user.a".to_vec(), b"hi".to_vec()), (b"user.b".to_vec(), b"1".to_vec())]);
    }

    #[test]
    fn global_header_may_not_rename_or_resize() {
        let global = |key: &[u8]| Pax::default().extend(&records(&[(key, b"1")]), Scope::Global, 0);
        for key in [&b"path"[..], b"linkpath", b"size", b"GNU.sparse.major"] {
            assert!(global(key).is_err());
        }
        assert!(global(b"comment").is_ok());
        assert!(global(b"uid").is_ok());
    }
}
