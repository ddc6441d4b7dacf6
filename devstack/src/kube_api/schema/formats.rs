//! The string formats that the API server checks for custom resources.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;

/// Whether the server checks a format; of others it warns (`apiextensions/pkg/apiserver/validation/formats.go`).
pub fn knows(format: &str) -> bool {
    const KNOWN: [&str; 32] = [
        "bsonobjectid",
        "uri",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "cidr",
        "mac",
        "uuid",
        "uuid3",
        "uuid4",
        "uuid5",
        "isbn",
        "isbn10",
        "isbn13",
        "creditcard",
        "ssn",
        "hexcolor",
        "rgbcolor",
        "byte",
        "password",
        "date",
        "duration",
        "datetime",
        "date-time",
        "int32",
        "int64",
        "float",
        "double",
        "k8s-short-name",
        "k8s-long-name",
        "",
    ];
    KNOWN.contains(&format)
}

/// Whether `text` is of the format; unknown formats accept everything.
pub fn matches(format: &str, text: &str) -> bool {
    match format {
        "uuid" => uuid(text, None),
        "uuid3" => uuid(text, Some('3')),
        "uuid4" => uuid(text, Some('4')),
        "uuid5" => uuid(text, Some('5')),
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text
            .split_once('/')
            .is_some_and(|(ip, bits)| ip.parse::<IpAddr>().is_ok() && bits.parse::<u8>().is_ok_and(|b| b <= 128)),
        "byte" => base64::engine::general_purpose::STANDARD.decode(text).is_ok(),
        "uri" => url::Url::parse(text).is_ok(),
        "hostname" => hostname(text),
        "email" => text.split_once('@').is_some_and(|(user, host)| !user.is_empty() && hostname(host)),
        "duration" => duration(text),
        _ => true,
    }
}

/// The server's pattern makes the hyphens optional.
fn uuid(text: &str, version: Option<char>) -> bool {
    let mut hex = 0;
    let mut digit_of_version = ' ';
    for c in text.chars() {
        match c {
            '-' if matches!(hex, 8 | 12 | 16 | 20) => {}
            c if c.is_ascii_hexdigit() => {
                if hex == 12 {
                    digit_of_version = c;
                }
                hex += 1;
            }
            _ => return false,
        }
    }
    hex == 32 && version.is_none_or(|v| v == digit_of_version)
}

fn hostname(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 255
        && text.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// Go's `time.ParseDuration`.
fn duration(text: &str) -> bool {
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        if digits == 0 || rest[..digits].parse::<f64>().is_err() {
            return false;
        }
        rest = &rest[digits..];
        let Some(unit) = ["ns", "us", "µs", "ms", "s", "m", "h"].into_iter().find(|unit| rest.starts_with(unit))
        else {
            return false;
        };
        // "m" must not swallow the first letter of "ms".
        let unit = if unit == "m" && rest.starts_with("ms") { "ms" } else { unit };
        rest = &rest[unit.len()..];
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn formats_are_checked_as_the_server_does() {
        assert!(matches("uuid", "f47ac10b-58cc-4372-a567-0e02b2c3d479"));
        assert!(!matches("uuid", "f47ac10b-58cc"));
        assert!(matches("duration", "1h30m") && matches("duration", "5ms") && !matches("duration", "5 s"));
        assert!(matches("date-time", "2026-01-02T03:04:05Z") && !matches("date-time", "2026-01-02"));
        assert!(matches("made-up", "anything"));
    }
}
