//! Messages of the DNS: one question out, records of two kinds in.

pub(crate) const PTR: u16 = 12;
pub(crate) const SRV: u16 = 33;
const INTERNET: u16 = 1;
const HEAD_BYTES: usize = 12;
/// Jumps in one compressed name.
const MAX_JUMPS: usize = 64;
const MAX_NAME_BYTES: usize = 255;

/// One server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Lower ones are to be tried first.
    pub priority: u16,
    /// Share among those of one priority.
    pub weight: u16,
    /// Its port.
    pub port: u16,
    /// Its name, with the dot at its end.
    pub target: String,
}

/// What an answer holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Records {
    pub(crate) srv: Vec<Srv>,
    /// Without the dot at the end.
    pub(crate) ptr: Vec<String>,
}

/// What a server says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Records(Records),
    NoSuchName,
    Truncated,
    /// With its code.
    Refused(u8),
}

/// Not an answer to the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// A question as bytes; `None` for what is no name.
pub(crate) fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    // Recursion is wanted; one question.
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.strip_suffix('.').unwrap_or(name).split('.') {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..64).contains(len))?;
        bytes.push(len);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&INTERNET.to_be_bytes());
    (bytes.len() <= HEAD_BYTES + MAX_NAME_BYTES + 4).then_some(bytes)
}

/// Reads the answer to `query`.
pub(crate) fn read(bytes: &[u8], query: &[u8]) -> Result<Answer, Malformed> {
    let head: &[u8; HEAD_BYTES] = bytes.first_chunk().ok_or(Malformed)?;
    let repeated = bytes.get(HEAD_BYTES..query.len()).ok_or(Malformed)?;
    let is_answer = head[2] & 0x80 != 0 && head[..2] == query[..2] && head[4..6] == [0, 1];
    if !is_answer || !repeated.eq_ignore_ascii_case(&query[HEAD_BYTES..]) {
        return Err(Malformed);
    }
    match head[3] & 15 {
        _ if head[2] & 2 != 0 => return Ok(Answer::Truncated),
        0 => {}
        3 => return Ok(Answer::NoSuchName),
        code => return Ok(Answer::Refused(code)),
    }
    let mut records = Records::default();
    let mut at = query.len();
    for _ in 0..u16::from_be_bytes([head[6], head[7]]) {
        at = skip_name(bytes, at)?;
        let fixed: &[u8; 10] = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(Malformed)?;
        let kind = u16::from_be_bytes([fixed[0], fixed[1]]);
        let len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        at += fixed.len();
        let data = bytes.get(at..at + len).ok_or(Malformed)?;
        match kind {
            SRV => {
                let numbers: &[u8; 6] = data.first_chunk().ok_or(Malformed)?;
                let number = |place: usize| u16::from_be_bytes([numbers[place], numbers[place + 1]]);
                let target = name_at(bytes, at + numbers.len())? + ".";
                records.srv.push(Srv { priority: number(0), weight: number(2), port: number(4), target });
            }
            PTR => records.ptr.push(name_at(bytes, at)?),
            // What an alias stands for follows it.
            _ => {}
        }
        at += len;
    }
    Ok(Answer::Records(records))
}

/// Where the name that begins at `at` ends.
fn skip_name(bytes: &[u8], mut at: usize) -> Result<usize, Malformed> {
    loop {
        match *bytes.get(at).ok_or(Malformed)? {
            0 => return Ok(at + 1),
            len @ 1..64 => at += 1 + usize::from(len),
            192.. => return Ok(at + 2),
            _ => return Err(Malformed),
        }
    }
}

fn name_at(bytes: &[u8], mut at: usize) -> Result<String, Malformed> {
    let mut name = String::new();
    let mut jumps = 0;
    loop {
        match *bytes.get(at).ok_or(Malformed)? {
            0 => return Ok(name),
            len @ 1..64 => {
                let end = at + 1 + usize::from(len);
                let label = bytes.get(at + 1..end).ok_or(Malformed)?;
                if !name.is_empty() {
                    name.push('.');
                }
                // What is no host name is of no use to anybody who asks here.
                let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_*".contains(byte);
                if !label.iter().all(is_plain) || name.len() + label.len() > MAX_NAME_BYTES {
                    return Err(Malformed);
                }
                name.extend(label.iter().map(|byte| char::from(*byte)));
                at = end;
            }
            high @ 192.. => {
                jumps += 1;
                let low = *bytes.get(at + 1).ok_or(Malformed)?;
                at = usize::from(high & 63) << 8 | usize::from(low);
                if jumps > MAX_JUMPS {
                    return Err(Malformed);
                }
            }
            _ => return Err(Malformed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_never_end_are_refused() {
        let query = question(7, "a.b", PTR).unwrap();
        let mut looped = query.clone();
        looped[2] = 0x80;
        looped[7] = 1;
        let at = looped.len() as u8 + 12;
        looped.extend([0xc0, 12, 0, 12, 0, 1, 0, 0, 0, 0, 0, 2, 0xc0, at]);
        assert_eq!(read(&looped, &query), Err(Malformed));
        // Every beginning, and every byte changed: an answer or none, but an end.
        let mut good = looped.clone();
        let last = good.len() - 1;
        good[last] = 12;
        assert_eq!(
            read(&good, &query),
            Ok(Answer::Records(Records { ptr: vec!["a.b".into()], ..Default::default() }))
        );
        for cut in 0..good.len() {
            assert!(read(&good[..cut], &query).is_err());
            for value in 0..=255 {
                let mut changed = good.clone();
                changed[cut] = value;
                let _ = read(&changed, &query);
            }
        }
    }
}
