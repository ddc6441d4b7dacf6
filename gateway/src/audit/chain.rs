//! The hash chain of audit lines, and `storefence-gateway audit verify`.
//!
//! A line is one JSON object whose last two members are `previous`, the hash of the line before, and `hash`, the
//! SHA-256 of this line without that member. Removing or editing a line breaks the chain there. Somebody who can write
//! the file can also compute a new chain, so the hash of the last line has to be kept where they cannot write.

use std::{
    io::{self, BufRead},
    path::Path,
};

use serde::Deserialize;
use sha2::{Digest, Sha256};

/// `previous` in the first line of a chain.
pub const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Lower-case hexadecimal SHA-256.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(64);
    for byte in Sha256::digest(bytes) {
        text.push(DIGITS[usize::from(byte >> 4)].into());
        text.push(DIGITS[usize::from(byte & 15)].into());
    }
    text
}

/// Completes a line in place: it is a JSON object without its closing brace. Returns its hash.
#[must_use]
pub fn seal(line: &mut Vec<u8>, previous: &str) -> String {
    for part in [",\"previous\":\"", previous, "\""] {
        line.extend_from_slice(part.as_bytes());
    }
    let hash = sha256(line);
    for part in [",\"hash\":\"", &hash, "\"}"] {
        line.extend_from_slice(part.as_bytes());
    }
    hash
}

#[derive(Deserialize)]
struct Links {
    sequence: u64,
    previous: String,
    hash: String,
}

/// A line's number, previous hash and own hash. `None` if the line is not as it was written.
#[must_use]
pub fn read(line: &str) -> Option<(u64, String, String)> {
    let Links { sequence, previous, hash } = serde_json::from_str(line).ok()?;
    let open = line.strip_suffix(&format!(",\"hash\":\"{hash}\"}}"))?;
    (sha256(open.as_bytes()) == hash).then_some((sequence, previous, hash))
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The file cannot be read.
    #[error("cannot read {0}: {1}")]
    Unreadable(String, io::Error),
    /// A line is not as it was written.
    #[error("line {0} was edited, or is no audit line")]
    Edited(usize),
    /// Lines are missing.
    #[error("before line {line} something was removed or put in: its sequence is {found}, {expected} was expected")]
    Removed {
        /// The line after the gap, from 1.
        line: usize,
        /// Its number in the chain.
        found: u64,
        /// The number that was expected.
        expected: u64,
    },
    /// The line is intact but belongs to another chain.
    #[error("line {0} does not continue the line before it")]
    Foreign(usize),
}

/// The summary of a valid chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// Number of lines.
    pub lines: usize,
    /// Hash of the last line, or the initial hash if there is none.
    pub last: String,
}

/// Checks a file. It begins a chain or, where logs are rotated, continues after the line whose hash is `after`.
///
/// # Errors
/// [`Broken`] names the first line that is wrong.
pub fn verify(path: &Path, after: Option<&str>) -> Result<Whole, Broken> {
    let unreadable = |error| Broken::Unreadable(path.display().to_string(), error);
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut whole = Whole { lines: 0, last: after.unwrap_or(START).to_owned() };
    let mut next = if after.is_some() { None } else { Some(1) };
    for line in io::BufReader::new(file).split(b'\n') {
        let line = String::from_utf8_lossy(&line.map_err(unreadable)?).into_owned();
        whole.lines += 1;
        let (sequence, previous, hash) = read(&line).ok_or(Broken::Edited(whole.lines))?;
        if let Some(expected) = next.filter(|expected| *expected != sequence) {
            return Err(Broken::Removed { line: whole.lines, found: sequence, expected });
        }
        if previous != whole.last {
            return Err(Broken::Foreign(whole.lines));
        }
        next = Some(sequence + 1);
        whole.last = hash;
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::{Broken, START, read, seal, verify};

    fn sealed(body: &str, previous: &str) -> (String, String) {
        let mut line = body.as_bytes().to_vec();
        let hash = seal(&mut line, previous);
        (String::from_utf8(line).expect("text"), hash)
    }

    fn lines(n: u64) -> Vec<String> {
        let mut previous = START.to_owned();
        let line = |n| {
            let (line, hash) = sealed(&format!("{{\"sequence\":{n},\"tool\":\"t{n}\""), &previous);
            previous = hash;
            line
        };
        (1..=n).map(line).collect()
    }

    fn check(lines: &[String], after: Option<&str>) -> Result<usize, Broken> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), lines.iter().map(|line| format!("{line}\n")).collect::<String>()).expect("written");
        verify(file.path(), after).map(|whole| whole.lines)
    }

    #[test]
    fn every_edit_and_removal_is_found_at_its_line() {
        let good = lines(5);
        assert_eq!(check(&good, None).expect("whole"), 5);
        assert_eq!(check(&[], None).expect("nothing"), 0);
        for at in 0..5 {
            for from in 0..good[at].len() {
                let mut edited = good.clone();
                let mut bytes = edited[at].clone().into_bytes();
                bytes[from] ^= 1;
                edited[at] = String::from_utf8(bytes).expect("ASCII");
                assert!(matches!(check(&edited, None), Err(Broken::Edited(line)) if line == at + 1), "{}", edited[at]);
            }
            let mut removed = good.clone();
            removed.remove(at);
            match check(&removed, None) {
                Err(Broken::Removed { line, expected, .. }) => assert_eq!((line, expected), (at + 1, at as u64 + 1)),
                // The chain's true end is known only to somebody who kept the last hash.
                other => assert!(at == 4 && other.is_ok(), "{other:?}"),
            }
        }
        let mut swapped = good.clone();
        swapped.swap(1, 2);
        assert!(matches!(check(&swapped, None), Err(Broken::Removed { line: 2, found: 3, expected: 2 })));
    }

    #[test]
    fn a_line_of_another_chain_and_a_rotated_file() {
        let mut mixed = lines(3);
        let (other, _) = sealed("{\"sequence\":2,\"tool\":\"other\"", START);
        mixed[1] = other;
        assert!(matches!(check(&mixed, None), Err(Broken::Foreign(2))));
        let good = lines(4);
        let (_, _, hash) = read(&good[1]).expect("a line");
        assert_eq!(check(&good[2..], Some(&hash)).expect("goes on"), 2);
        assert!(check(&good[2..], None).is_err() && check(&good[3..], Some(&hash)).is_err());
    }
}
