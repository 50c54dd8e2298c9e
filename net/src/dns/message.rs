//! DNS messages as bytes: a query is read whole and strictly, an answer is checked against its query and passed on as it is.
//!
//! ```text
//! id u16, flags u16, counts of { question, answer, authority, additional } u16      numbers are big-endian
//! question: name, type u16, class u16          record: name, type u16, class u16, ttl u32, len u16, data
//! ```
//! Pure. Nothing here indexes: every byte comes from a stranger.
//!
//! # Source
//! RFC 1035 section 4, RFC 6891 (EDNS), RFC 7873 section 5.4 (a query need not have a question; ours does).

use std::net::IpAddr;

/// An IPv4 address.
pub(super) const A: u16 = 1;
/// A name for an address.
pub(super) const PTR: u16 = 12;
/// An IPv6 address.
pub(super) const AAAA: u16 = 28;
/// Whatever there is.
pub(super) const ANY: u16 = 255;
const OPT: u16 = 41;
/// Transfers of zones, whole or in part.
const TRANSFERS: std::ops::RangeInclusive<u16> = 251..=252;
const CLASS_IN: u16 = 1;

/// What an answer says of itself.
///
/// # Source
/// RFC 1035 section 4.1.1.
pub(super) mod rcode {
    pub(in super::super) const NO_ERROR: u8 = 0;
    pub(in super::super) const FORMAT_ERROR: u8 = 1;
    pub(in super::super) const SERVER_FAILURE: u8 = 2;
    pub(in super::super) const NO_SUCH_NAME: u8 = 3;
    pub(in super::super) const NOT_IMPLEMENTED: u8 = 4;
    pub(in super::super) const REFUSED: u8 = 5;
}

const HEADER_LEN: usize = 12;
const LONGEST_NAME: usize = 255;
const LONGEST_LABEL: u8 = 63;
/// What the two highest bits of a label's length say of the rest of the name: it stands elsewhere.
const ELSEWHERE: u8 = 0b1100_0000;

const IS_ANSWER: u16 = 0x8000;
const OPERATION: u16 = 0x7800;
const IS_TRUNCATED: u16 = 0x0200;
const WANTS_RECURSION: u16 = 0x0100;
const HAS_RECURSION: u16 = 0x0080;
const WANTS_NO_CHECKS: u16 = 0x0010;
const WANTS_SIGNATURES: u16 = 0x8000;

/// The longest answer to who says nothing of it, in bytes.
const PLAIN_LIMIT: usize = 512;
/// The longest datagram that is sent, whatever somebody says.
const LONGEST_DATAGRAM: usize = 4096;
/// What we say we take: it fits into any link's packet.
const OUR_LIMIT: u16 = 1232;

/// A query that is well formed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Query<'a> {
    bytes: &'a [u8],
    flags: u16,
    /// Name, type and class.
    question: &'a [u8],
    name: &'a [u8],
    /// The type that is asked for.
    pub(super) kind: u16,
    extension: Option<Extension>,
}

/// What an EDNS record says.
#[derive(Debug, Clone, Copy)]
struct Extension {
    limit: u16,
    flags: u16,
}

/// What is no query that can be answered by what we know, or by others.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unfit {
    /// Not to be answered: it may be an answer itself.
    Silence,
    /// To be answered by this.
    Answer(Vec<u8>),
}

/// Reads a query.
pub(super) fn query(bytes: &[u8]) -> Result<Query<'_>, Unfit> {
    let flags = read_u16(bytes, 2).filter(|_| bytes.len() >= HEADER_LEN).ok_or(Unfit::Silence)?;
    if flags & IS_ANSWER != 0 {
        return Err(Unfit::Silence);
    }
    let unfit = |code: u8| {
        let mut answer = bytes.get(..2).unwrap_or_default().to_vec();
        let flags = IS_ANSWER | flags & (OPERATION | WANTS_RECURSION) | u16::from(code);
        answer.extend_from_slice(&flags.to_be_bytes());
        answer.resize(HEADER_LEN, 0);
        Unfit::Answer(answer)
    };
    if flags & OPERATION != 0 {
        return Err(unfit(rcode::NOT_IMPLEMENTED));
    }
    let read = read_query(bytes, flags).ok_or_else(|| unfit(rcode::FORMAT_ERROR))?;
    let class = read.question.get(read.question.len().saturating_sub(2)..).and_then(|class| read_u16(class, 0));
    if class != Some(CLASS_IN) || TRANSFERS.contains(&read.kind) {
        return Err(unfit(rcode::NOT_IMPLEMENTED));
    }
    Ok(read)
}

fn read_query(bytes: &[u8], flags: u16) -> Option<Query<'_>> {
    let counts = [4, 6, 8, 10].map(|at| read_u16(bytes, at));
    let [Some(1), Some(0), Some(0), Some(additional)] = counts else { return None };
    let name_end = plain_name_end(bytes)?;
    let name = bytes.get(HEADER_LEN..name_end)?;
    let kind = read_u16(bytes, name_end)?;
    let question = bytes.get(HEADER_LEN..name_end + 4)?;
    let mut at = name_end + 4;
    let mut extension = None;
    for _ in 0..additional {
        let record = record_at(bytes, at)?;
        at = record.end;
        if record.kind == OPT {
            if extension.is_some() || !record.is_of_root {
                return None;
            }
            extension = Some(Extension { limit: record.class, flags: record.ttl as u16 });
        }
    }
    (at == bytes.len()).then_some(Query { bytes, flags, question, name, kind, extension })
}

impl Query<'_> {
    /// Its number.
    pub(super) fn id(&self) -> u16 {
        read_u16(self.bytes, 0).unwrap_or_default()
    }

    /// The name in lower case, labels with dots between; `None` for one that no container has: a byte of it is neither
    /// a letter, a digit, nor one of `-_`.
    pub(super) fn name(&self) -> Option<String> {
        let mut text = String::with_capacity(self.name.len());
        let mut rest = self.name;
        while let Some((len, after)) = rest.split_first().filter(|(len, _)| **len != 0) {
            let (label, after) = after.split_at_checked(usize::from(*len))?;
            rest = after;
            if !text.is_empty() {
                text.push('.');
            }
            for byte in label {
                let is_plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
                text.push(is_plain.then(|| char::from(byte.to_ascii_lowercase()))?);
            }
        }
        Some(text)
    }

    /// The longest answer that fits into a datagram to the asker, in bytes.
    pub(super) fn datagram_limit(&self) -> usize {
        let limit = self.extension.map_or(PLAIN_LIMIT, |extension| usize::from(extension.limit));
        limit.clamp(PLAIN_LIMIT, LONGEST_DATAGRAM)
    }

    /// An answer of our own of at most `limit` bytes. What does not fit is left out, and said to be.
    pub(super) fn answer(&self, code: u8, records: &[Record], limit: usize) -> Vec<u8> {
        let mut answer = self.head(code);
        let room = limit.saturating_sub(if self.extension.is_some() { EXTENSION_LEN } else { 0 });
        let mut count = 0_u16;
        for record in records {
            let before = answer.len();
            record.write(&mut answer);
            if answer.len() > room {
                answer.truncate(before);
                let flags = read_u16(&answer, 2).unwrap_or_default() | IS_TRUNCATED;
                write_u16(&mut answer, 2, flags);
                break;
            }
            count += 1;
        }
        write_u16(&mut answer, 6, count);
        self.extend(&mut answer);
        answer
    }

    /// What says that the whole answer has to be asked for over TCP.
    pub(super) fn truncated(&self, code: u8) -> Vec<u8> {
        let mut answer = self.head(code);
        let flags = read_u16(&answer, 2).unwrap_or_default() | IS_TRUNCATED;
        write_u16(&mut answer, 2, flags);
        self.extend(&mut answer);
        answer
    }

    fn head(&self, code: u8) -> Vec<u8> {
        let flags = IS_ANSWER | HAS_RECURSION | self.flags & (WANTS_RECURSION | WANTS_NO_CHECKS) | u16::from(code);
        let mut answer = Vec::with_capacity(PLAIN_LIMIT);
        for number in [self.id(), flags, 1, 0, 0, 0] {
            answer.extend_from_slice(&number.to_be_bytes());
        }
        answer.extend_from_slice(self.question);
        answer
    }

    fn extend(&self, answer: &mut Vec<u8>) {
        let Some(extension) = self.extension else { return };
        write_u16(answer, 10, 1);
        // The root's name, then in the place of a TTL: upper bits of the code, version, flags.
        answer.push(0);
        for number in [OPT, OUR_LIMIT, 0, extension.flags & WANTS_SIGNATURES, 0] {
            answer.extend_from_slice(&number.to_be_bytes());
        }
    }

    /// Whether `bytes` answer the query under the number it was passed on with.
    pub(super) fn is_answered_by(&self, id: u16, bytes: &[u8]) -> Option<Reply> {
        let flags = read_u16(bytes, 2)?;
        let question = bytes.get(HEADER_LEN..HEADER_LEN + self.question.len())?;
        let name_len = self.name.len();
        let is_same = read_u16(bytes, 0)? == id
            && flags & (IS_ANSWER | OPERATION) == IS_ANSWER
            && read_u16(bytes, 4)? == 1
            // Lengths of labels are no letters.
            && question.get(..name_len)?.eq_ignore_ascii_case(self.name)
            && question.get(name_len..)? == self.question.get(name_len..)?;
        is_same.then_some(Reply { code: (flags & 0xf) as u8, is_truncated: flags & IS_TRUNCATED != 0 })
    }
}

const EXTENSION_LEN: usize = 11;

/// What an answer says of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Addresses {
    /// The name that was asked for.
    pub(super) name: Option<String>,
    /// Where it leads, whatever aliases are between.
    pub(super) ips: Vec<IpAddr>,
    /// The shortest time to live of them, in seconds.
    pub(super) ttl: u32,
}

/// The addresses in an answer; `None` for what is no whole answer.
pub(super) fn addresses(bytes: &[u8]) -> Option<Addresses> {
    let name_end = plain_name_end(bytes)?;
    let question = bytes.get(HEADER_LEN..name_end + 4)?;
    let name = bytes.get(HEADER_LEN..name_end)?;
    let (mut at, mut ips, mut ttl) = (name_end + 4, Vec::new(), u32::MAX);
    for _ in 0..read_u16(bytes, 6)? {
        let record = record_at(bytes, at)?;
        at = record.end;
        let data = bytes.get(record.data..record.end)?;
        let ip = match record.kind {
            A => <[u8; 4]>::try_from(data).ok().map(IpAddr::from),
            AAAA => <[u8; 16]>::try_from(data).ok().map(IpAddr::from),
            _ => None,
        };
        if let Some(ip) = ip.filter(|_| record.class == CLASS_IN) {
            ips.push(ip);
            ttl = ttl.min(record.ttl);
        }
    }
    let query = Query { bytes, flags: 0, question, name, kind: 0, extension: None };
    Some(Addresses { name: query.name(), ips, ttl })
}

/// What is looked at of an answer that is passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) code: u8,
    pub(super) is_truncated: bool,
}

/// A record of our own, for the name that was asked for. Nobody shall remember it: a container may come back elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Address(IpAddr),
    /// What an address is called.
    Name(String),
}

impl Record {
    fn write(&self, answer: &mut Vec<u8>) {
        let (kind, data) = match self {
            Self::Address(IpAddr::V4(v4)) => (A, v4.octets().to_vec()),
            Self::Address(IpAddr::V6(v6)) => (AAAA, v6.octets().to_vec()),
            Self::Name(name) => (PTR, wire_name(name)),
        };
        let len = u16::try_from(data.len()).unwrap_or_default();
        // The question's name.
        let name = u16::from(ELSEWHERE) << 8 | HEADER_LEN as u16;
        for number in [name, kind, CLASS_IN, 0, 0, len] {
            answer.extend_from_slice(&number.to_be_bytes());
        }
        answer.extend_from_slice(&data);
    }
}

/// A name of dots and labels as bytes. Ours are short; what could be no name is the root's.
fn wire_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.') {
        match u8::try_from(label.len()) {
            Ok(len @ 1..=LONGEST_LABEL) => bytes.push(len),
            _ => return vec![0],
        }
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    if bytes.len() > LONGEST_NAME { vec![0] } else { bytes }
}

/// The message with another number.
pub(super) fn with_id(bytes: &[u8], id: u16) -> Vec<u8> {
    let mut copy = bytes.to_vec();
    write_u16(&mut copy, 0, id);
    copy
}

/// Makes of an answer that the server has failed.
pub(super) fn fail(answer: &mut Vec<u8>) {
    let end = plain_name_end(answer).map_or(HEADER_LEN, |end| end + 4);
    answer.truncate(end);
    let flags = read_u16(answer, 2).unwrap_or_default() & !0xf | u16::from(rcode::SERVER_FAILURE);
    write_u16(answer, 2, flags);
    [6, 8, 10].into_iter().for_each(|count| write_u16(answer, count, 0));
}

/// Where the name behind the header ends, if it is all there: nothing stands before it that it could point at.
fn plain_name_end(bytes: &[u8]) -> Option<usize> {
    let mut at = HEADER_LEN;
    loop {
        match *bytes.get(at)? {
            0 => return (at + 1 - HEADER_LEN <= LONGEST_NAME).then_some(at + 1),
            len @ 1..=LONGEST_LABEL => at += 1 + usize::from(len),
            _ => return None,
        }
    }
}

/// What of a record matters here.
#[derive(Debug, Clone, Copy)]
struct RawRecord {
    is_of_root: bool,
    kind: u16,
    class: u16,
    ttl: u32,
    /// Where its data begins.
    data: usize,
    /// Where the next one begins.
    end: usize,
}

fn record_at(bytes: &[u8], at: usize) -> Option<RawRecord> {
    let mut end = at;
    let end = loop {
        match *bytes.get(end)? {
            0 => break end + 1,
            len @ 1..=LONGEST_LABEL => end += 1 + usize::from(len),
            len if len & ELSEWHERE == ELSEWHERE => break end + 2,
            _ => return None,
        }
    };
    let ttl = u32::from(read_u16(bytes, end + 4)?) << 16 | u32::from(read_u16(bytes, end + 6)?);
    let len = usize::from(read_u16(bytes, end + 8)?);
    let record = RawRecord {
        is_of_root: end == at + 1,
        kind: read_u16(bytes, end)?,
        class: read_u16(bytes, end + 2)?,
        ttl,
        data: end + 10,
        end: end + 10 + len,
    };
    (record.end <= bytes.len()).then_some(record)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn write_u16(bytes: &mut [u8], at: usize, number: u16) {
    if let Some(place) = bytes.get_mut(at..at + 2) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}

/// Does with bytes whatever is done with them, and says what must hold of the outcome.
///
/// # Panics
/// If something does not hold.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn examine(bytes: &[u8]) {
    /// A whole message: all that it says is there is there, and nothing else.
    fn is_whole(bytes: &[u8]) -> bool {
        let walk = || -> Option<usize> {
            let mut at = HEADER_LEN;
            if read_u16(bytes, 4)? == 1 {
                at = plain_name_end(bytes)? + 4;
            }
            let counts = [6, 8, 10].map(|place| read_u16(bytes, place));
            let count: u32 = counts.into_iter().map(|count| count.map(u32::from)).sum::<Option<u32>>()?;
            for _ in 0..count {
                at = record_at(bytes, at)?.end;
            }
            Some(at)
        };
        walk() == Some(bytes.len())
    }
    let query = match query(bytes) {
        Err(Unfit::Silence) => return,
        Err(Unfit::Answer(answer)) => return assert!(is_whole(&answer), "{bytes:?}: {answer:?}"),
        Ok(query) => query,
    };
    let _ = addresses(bytes);
    if let Some(name) = query.name() {
        assert!(name.len() < LONGEST_NAME && name == name.to_ascii_lowercase(), "{name:?}");
    }
    let address = |last: u8| Record::Address(IpAddr::from([10, 88, 0, last]));
    let records: Vec<Record> =
        (0..200).map(address).chain([Record::Name("a".repeat(40)), Record::Name("..".to_owned())]).collect();
    for some in [&records[..], &records[..1], &records[200..], &[]] {
        let whole = query.answer(rcode::NO_ERROR, some, usize::from(u16::MAX));
        let count = some.iter().filter(|record| matches!(record, Record::Address(_))).count();
        let found = addresses(&whole).expect("it is whole");
        assert!(found.ips.len() <= count && found.name == query.name(), "{bytes:?}");
        for limit in [query.datagram_limit(), PLAIN_LIMIT] {
            let answer = query.answer(rcode::NO_ERROR, some, limit);
            assert!(answer.len() <= limit && is_whole(&answer), "{bytes:?}: {answer:?}");
            let reply = query.is_answered_by(query.id(), &answer).expect("it is the answer");
            assert_eq!(reply.is_truncated, whole.len() > limit, "{bytes:?}");
        }
    }
    let truncated = query.truncated(rcode::NO_SUCH_NAME);
    assert!(is_whole(&truncated) && truncated.len() <= PLAIN_LIMIT);
    let passed_on = with_id(bytes, !query.id());
    assert!(self::query(&passed_on).is_ok_and(|same| same.id() == !query.id() && same.question == query.question));
    assert_eq!(query.is_answered_by(query.id(), bytes), None, "a query is no answer");
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A query as resolvers of programs make it.
    pub(in super::super) fn ask(name: &str, kind: u16, limit: Option<u16>) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(limit.is_some())];
        bytes.extend(
            name.split('.')
                .filter(|label| !label.is_empty())
                .flat_map(|label| std::iter::once(u8::try_from(label.len()).unwrap()).chain(label.bytes())),
        );
        bytes.push(0);
        bytes.extend([kind, CLASS_IN].iter().flat_map(|number| number.to_be_bytes()));
        if let Some(limit) = limit {
            bytes.extend([0, 0, 41]);
            bytes.extend(limit.to_be_bytes());
            bytes.extend([0, 0, 0x80, 0, 0, 0]);
        }
        bytes
    }

    #[test]
    fn queries_are_read() {
        for (name, shown) in
            [("Web.Example", Some("web.example")), ("", Some("")), ("_a.b-c", Some("_a.b-c")), ("a b", None)]
        {
            let bytes = ask(name, AAAA, None);
            let query = query(&bytes).unwrap();
            assert_eq!((query.name().as_deref(), query.kind, query.datagram_limit()), (shown, AAAA, 512));
            examine(&bytes);
        }
        for (said, limit) in [(0, 512), (1232, 1232), (65535, 4096)] {
            let bytes = ask("a", A, Some(said));
            assert_eq!(query(&bytes).unwrap().datagram_limit(), limit);
            examine(&bytes);
        }
    }

    #[test]
    fn what_is_no_query_is_refused_or_passed_over() {
        let good = ask("web", A, Some(1232));
        for len in 0..good.len() {
            let refused = query(&good[..len]).unwrap_err();
            assert_eq!(refused == Unfit::Silence, len < HEADER_LEN, "{len}");
        }
        let changed = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            match query(&bytes) {
                Err(Unfit::Answer(answer)) => Some(answer[3]),
                Err(Unfit::Silence) => None,
                Ok(_) => Some(0),
            }
        };
        let is_answer = changed(2, 0x81);
        assert_eq!(is_answer, None);
        // An operation that is no query; two questions; an answer; a pointer; a class; a trailing byte.
        let codes = [(2, 0x28), (5, 2), (7, 1), (12, 0xc0), (12, 64), (20, 3), (11, 2), (11, 0)]
            .map(|(at, byte)| changed(at, byte));
        assert_eq!(codes, [4, 1, 1, 1, 1, 4, 1, 1].map(Some));
        for kind in TRANSFERS {
            assert!(matches!(query(&ask("web", kind, None)), Err(Unfit::Answer(answer)) if answer[3] == 4));
        }
        let long = [&*"a".repeat(63); 4].join(".");
        assert!(matches!(query(&ask(&long, A, None)), Err(Unfit::Answer(answer)) if answer[3] == 1));
    }

    #[test]
    fn only_the_answer_to_the_question_is_one() {
        let bytes = ask("Web.example", A, Some(1232));
        let asked = query(&bytes).unwrap();
        let mut answer = with_id(&asked.answer(rcode::NO_SUCH_NAME, &[], 512), 7);
        let reply = Some(Reply { code: 3, is_truncated: false });
        assert_eq!(asked.is_answered_by(7, &answer), reply);
        assert_eq!(asked.is_answered_by(8, &answer), None);
        answer[13] = b'w';
        assert_eq!(asked.is_answered_by(7, &answer), reply, "case does not matter");
        answer[13] = b'v';
        assert_eq!(asked.is_answered_by(7, &answer), None);
        let other = ask("web.example", AAAA, None);
        let other = query(&other).unwrap().answer(0, &[], 512);
        assert_eq!(asked.is_answered_by(asked.id(), &other), None);
        for len in 0..other.len() {
            assert_eq!(asked.is_answered_by(asked.id(), &other[..len]), None);
        }
    }

    #[test]
    fn names_of_addresses_are_written() {
        let bytes = ask("2.0.88.10.in-addr.arpa", PTR, None);
        let answer = query(&bytes).unwrap().answer(0, &[Record::Name("web".into())], 512);
        assert!(answer.ends_with(b"\0\x05\x03web\0"), "{answer:?}");
        assert_eq!(wire_name("a..b"), [0]);
        assert_eq!(wire_name(&"a".repeat(64)), [0]);
    }

    #[test]
    fn bytes_that_are_nothing_harm_nobody() {
        let good = ask("web.example", A, Some(1232));
        // Every byte of a query replaced by each of these.
        for at in 0..good.len() {
            for byte in [0, 1, 2, 12, 63, 64, 0x80, 0xc0, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                examine(&bytes);
                bytes.truncate(bytes.len() - 3);
                examine(&bytes);
            }
        }
    }
}
