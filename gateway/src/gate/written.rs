//! SQL as models and word processors write it: in a code fence, behind a byte order mark, with no-break spaces, typographic
//! quotes or backticks. Each character is replaced by one character, so positions stay those of the caller's own text.

use std::borrow::Cow;

use super::lexer::{Kind, next_token};

/// White space that PostgreSQL treats as letters.
const fn is_blank(c: char) -> bool {
    matches!(
        c,
        '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200d}' | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{2060}' | '\u{3000}' | '\u{feff}'
    )
}

const fn is_single(c: char) -> bool {
    matches!(c, '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' | '\u{2032}')
}

const fn is_double(c: char) -> bool {
    matches!(c, '\u{201c}' | '\u{201d}' | '\u{201e}' | '\u{201f}' | '\u{2033}')
}

/// The statement in PostgreSQL's own characters. The content of constants and quoted identifiers is unchanged.
#[must_use]
pub fn understood(text: &str) -> Cow<'_, str> {
    let plain = |c: char| c != '`' && (c.is_ascii() || !(is_blank(c) || is_single(c) || is_double(c)));
    if text.chars().all(plain) {
        return text.into();
    }
    let mut written = String::with_capacity(text.len());
    let mut rest = unfenced(text, &mut written);
    while let Some(at) = first_odd(rest) {
        let (before, from) = rest.split_at(at);
        written.push_str(before);
        let Some(c) = from.chars().next() else { break };
        rest = &from[c.len_utf8()..];
        if is_blank(c) {
            written.push(' ');
            continue;
        }
        // Up to the closing quote. An apostrophe within a word does not close.
        let (quote, ends): (char, fn(char) -> bool) = match c {
            '`' => ('"', |c| c == '`'),
            c if is_single(c) => ('\'', |c| is_single(c) || c == '\''),
            _ => ('"', |c| is_double(c) || c == '"'),
        };
        let close = rest.char_indices().find(|(at, c)| {
            let within = is_single(*c) && rest[at + c.len_utf8()..].starts_with(char::is_alphanumeric);
            ends(*c) && !within
        });
        let Some((end, closing)) = close else {
            written.push(c);
            break;
        };
        written.push(quote);
        // A character that would end the constant early becomes a space.
        written.extend(rest[..end].chars().map(|c| if c == quote { ' ' } else { c }));
        written.push(quote);
        rest = &rest[end + closing.len_utf8()..];
    }
    written.push_str(rest);
    written.into()
}

/// Blanks a code fence's first and last line in `written`, and returns the range between them.
fn unfenced<'a>(text: &'a str, written: &mut String) -> &'a str {
    let start = text.len() - text.trim_start_matches(|c: char| c.is_whitespace() || is_blank(c)).len();
    let Some(fenced) = text[start..].strip_prefix("```") else { return text };
    let language = fenced.len() - fenced.trim_start_matches(|c: char| c.is_ascii_alphanumeric()).len();
    let head = start + 3 + language;
    written.extend(text[..head].chars().map(|c| if c == '\n' { c } else { ' ' }));
    let body = &text[head..];
    // Text after the fence is not SQL to run.
    body.rfind("```").map_or(body, |end| body[..end].trim_end())
}

/// The position of the first such character outside of constants, quoted identifiers and comments.
fn first_odd(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        // If the text is not SQL at all, PostgreSQL's own error is clearer.
        let token = next_token(text, at).ok()??;
        if matches!(token.kind, Kind::Word | Kind::Operator) {
            let inside = &text[token.start..token.end];
            let odd = inside.char_indices().find(|(_, c)| *c == '`' || is_blank(*c) || is_single(*c) || is_double(*c));
            if let Some((odd, _)) = odd {
                return Some(token.start + odd);
            }
        }
        at = token.end;
    }
}

#[cfg(test)]
mod tests {
    use super::understood;

    #[test]
    fn what_models_write_is_understood() {
        for (text, due) in [
            ("SELECT 1", "SELECT 1"),
            ("\u{feff}SELECT\u{a0}1", " SELECT 1"),
            ("```sql\nSELECT 1\n```", "      \nSELECT 1"),
            ("```\nSELECT 1;\n```\n", "   \nSELECT 1;"),
            (" ```SQL SELECT 1```", "        SELECT 1"),
            ("SELECT \u{2018}a\u{2019}, \u{201c}b\u{201d}", "SELECT 'a', \"b\""),
            ("SELECT \u{2018}it\u{2019}s\u{2019}", "SELECT 'it\u{2019}s'"),
            ("SELECT `b c` FROM `orders`", "SELECT \"b c\" FROM \"orders\""),
            ("SELECT a=`b`", "SELECT a=\"b\""),
            (
                "SELECT 'it\u{2019}s \u{a0}`' -- \u{201c}\n, \"\u{a0}\", 1",
                "SELECT 'it\u{2019}s \u{a0}`' -- \u{201c}\n, \"\u{a0}\", 1",
            ),
            ("SELECT $$\u{2018}$$, \u{2018}x\u{2019}", "SELECT $$\u{2018}$$, 'x'"),
            ("SELECT \u{201c}b", "SELECT \u{201c}b"),
            ("SELECT größe", "SELECT größe"),
            ("SELECT \u{2018}a\"b\u{2019}", "SELECT 'a\"b'"),
        ] {
            let read = understood(text);
            assert_eq!(read, due, "{text}");
            assert!(text.chars().count() >= read.chars().count());
            assert_eq!(understood(&read), read, "{text}: once and for all");
        }
    }

    #[test]
    fn positions_are_the_callers_own() {
        let text = "```sql\n\u{feff}SELECT\u{a0}\u{201c}größe\u{201d}, wrong";
        let at = |text: &str| text.find("wrong").map(|at| text[..at].chars().count());
        assert_eq!(at(text), at(&understood(text)));
    }

    #[test]
    fn many_odd_characters_take_no_time() {
        let text = format!("SELECT {}", "`a`,\u{a0}".repeat(40_000));
        let begun = std::time::Instant::now();
        assert!(understood(&text).len() > 100_000);
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
