//! Tokens of a statement by PostgreSQL's own rules (`src/backend/parser/scan.l`, with
//! `standard_conforming_strings = on`).
//!
//! This module only decides where one token ends and the next begins, and it is exact: a difference of one character
//! would hide a name from the gate. Values are not interpreted.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An identifier or keyword without quotes; compare in lower case.
    Word,
    /// A `"…"` identifier; compare as written between the quotes.
    Quoted,
    /// A `U&"…"` identifier, whose name is hidden in escapes.
    UnicodeQuoted,
    /// Any string constant: `'…'`, `E'…'`, `B'…'`, `X'…'`, `N'…'`, `U&'…'`, `$tag$…$tag$`.
    Text,
    Number,
    /// `$1`.
    Parameter,
    /// An operator, or `::`, `:=`, `..`.
    Operator,
    /// One of `( ) [ ] , ; : .`
    Punctuation(u8),
}

/// One token: its kind and its position in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    pub kind: Kind,
    /// First byte.
    pub start: usize,
    /// Byte after the last.
    pub end: usize,
}

/// A text that PostgreSQL's scanner would refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LexError {
    /// A `/*` without its `*/`.
    #[error("a /* comment is not closed")]
    Comment(usize),
    /// A string without its closing quote.
    #[error("a string is not closed")]
    Text(usize),
    /// A `"` without its counterpart.
    #[error("a quoted identifier is not closed")]
    Identifier(usize),
    /// A character that begins no token.
    #[error("unexpected character")]
    Character(usize),
}

impl LexError {
    /// The byte that the error refers to.
    #[must_use]
    pub const fn offset(&self) -> usize {
        match self {
            Self::Comment(at) | Self::Text(at) | Self::Identifier(at) | Self::Character(at) => *at,
        }
    }
}

/// Splits a statement into tokens; white space and comments are dropped.
///
/// # Errors
/// [`LexError`] where PostgreSQL would report an error too.
pub fn tokens(text: &str) -> Result<Vec<Token>, LexError> {
    let mut scanner = Scanner { text: text.as_bytes(), at: 0 };
    let mut tokens = Vec::with_capacity(text.len() / 4);
    while let Some(token) = scanner.next()? {
        tokens.push(token);
    }
    Ok(tokens)
}

/// The first token at or after a position that is not inside a token.
///
/// # Errors
/// As [`tokens`].
pub fn next_token(text: &str, at: usize) -> Result<Option<Token>, LexError> {
    Scanner { text: text.as_bytes(), at }.next()
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

const fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

const fn is_newline(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

const fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

const fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

const fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn looking_at(&self, what: &[u8]) -> bool {
        self.text[self.at..].starts_with(what)
    }

    fn next(&mut self) -> Result<Option<Token>, LexError> {
        self.skip_blank()?;
        let start = self.at;
        let Some(&first) = self.text.get(start) else { return Ok(None) };
        let kind = match first {
            b'\'' => self.text_constant(start, 0, false)?,
            b'e' | b'E' if self.peek(1) == b'\'' => self.text_constant(start, 1, true)?,
            b'b' | b'B' | b'x' | b'X' | b'n' | b'N' if self.peek(1) == b'\'' => self.text_constant(start, 1, false)?,
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'\'' => self.text_constant(start, 2, false)?,
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'"' => {
                self.at += 2;
                self.quoted(start)?;
                Kind::UnicodeQuoted
            }
            b'"' => {
                self.quoted(start)?;
                Kind::Quoted
            }
            b'$' => self.dollar(start)?,
            b'0'..=b'9' => self.number(),
            b'.' if self.peek(1).is_ascii_digit() => self.number(),
            byte if starts_word(byte) => {
                while self.text.get(self.at).is_some_and(|&byte| continues_word(byte)) {
                    self.at += 1;
                }
                Kind::Word
            }
            b':' if matches!(self.peek(1), b':' | b'=') => {
                self.at += 2;
                Kind::Operator
            }
            b'.' if self.peek(1) == b'.' => {
                self.at += 2;
                Kind::Operator
            }
            b'(' | b')' | b'[' | b']' | b',' | b';' | b':' | b'.' => {
                self.at += 1;
                Kind::Punctuation(first)
            }
            byte if is_operator(byte) => self.operator(),
            _ => return Err(LexError::Character(start)),
        };
        Ok(Some(Token { kind, start, end: self.at }))
    }

    fn skip_blank(&mut self) -> Result<(), LexError> {
        loop {
            if is_space(self.peek(0)) {
                self.at += 1;
            } else if self.looking_at(b"--") {
                self.skip_line_comment();
            } else if self.looking_at(b"/*") {
                self.skip_block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn skip_line_comment(&mut self) {
        while self.text.get(self.at).is_some_and(|&byte| !is_newline(byte)) {
            self.at += 1;
        }
    }

    /// Block comments nest.
    fn skip_block_comment(&mut self) -> Result<(), LexError> {
        let start = self.at;
        self.at += 2;
        let mut depth = 1;
        while depth > 0 {
            if self.at >= self.text.len() {
                return Err(LexError::Comment(start));
            }
            if self.looking_at(b"/*") {
                depth += 1;
                self.at += 2;
            } else if self.looking_at(b"*/") {
                depth -= 1;
                self.at += 2;
            } else {
                self.at += 1;
            }
        }
        Ok(())
    }

    /// A `'…'` constant behind `prefix` bytes. Two constants with a line break between them are one, and the second
    /// keeps the escape rules of the first.
    fn text_constant(&mut self, start: usize, prefix: usize, escapes: bool) -> Result<Kind, LexError> {
        self.at = start + prefix + 1;
        loop {
            match self.text.get(self.at) {
                None => return Err(LexError::Text(start)),
                Some(b'\\') if escapes => self.at += 2,
                Some(b'\'') if self.peek(1) == b'\'' => self.at += 2,
                Some(b'\'') => {
                    self.at += 1;
                    match self.continuation() {
                        Some(next) => self.at = next,
                        None => return Ok(Kind::Text),
                    }
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// Where a constant continues after its closing quote: after white space with at least one line break, which may
    /// contain `--` comments. `None` if it does not continue.
    fn continuation(&self) -> Option<usize> {
        let mut at = self.at;
        let mut newline = false;
        loop {
            match *self.text.get(at)? {
                b'\'' => return newline.then_some(at + 1),
                byte if is_space(byte) => {
                    newline |= is_newline(byte);
                    at += 1;
                }
                b'-' if self.text.get(at + 1) == Some(&b'-') => {
                    while self.text.get(at).is_some_and(|&byte| !is_newline(byte)) {
                        at += 1;
                    }
                }
                _ => return None,
            }
        }
    }

    fn quoted(&mut self, start: usize) -> Result<(), LexError> {
        self.at += 1;
        loop {
            match self.text.get(self.at) {
                None => return Err(LexError::Identifier(start)),
                Some(b'"') if self.peek(1) == b'"' => self.at += 2,
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(_) => self.at += 1,
            }
        }
    }

    fn dollar(&mut self, start: usize) -> Result<Kind, LexError> {
        if self.peek(1).is_ascii_digit() {
            self.at += 1;
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
            return Ok(Kind::Parameter);
        }
        let mut end = start + 1;
        if self.text.get(end).is_some_and(|&byte| starts_word(byte)) {
            while self.text.get(end).is_some_and(|&byte| starts_word(byte) || byte.is_ascii_digit()) {
                end += 1;
            }
        }
        if self.text.get(end) != Some(&b'$') {
            return Err(LexError::Character(start));
        }
        let tag = &self.text[start..=end];
        let body = end + 1;
        let close = self.text[body..].windows(tag.len()).position(|window| window == tag);
        self.at = body + close.ok_or(LexError::Text(start))? + tag.len();
        Ok(Kind::Text)
    }

    /// Digits, point, exponent, underscores, `0x…`. Letters that follow directly become a token of their own:
    /// PostgreSQL refuses them, but only after the gate has checked them.
    fn number(&mut self) -> Kind {
        let radix = self.peek(0) == b'0' && matches!(self.peek(1) | 0x20, b'x' | b'o' | b'b');
        if radix && (self.peek(2).is_ascii_hexdigit() || self.peek(2) == b'_') {
            self.at += 2;
            while self.peek(0).is_ascii_hexdigit() || self.peek(0) == b'_' {
                self.at += 1;
            }
            return Kind::Number;
        }
        self.digits();
        // "1..2" is two dots, not "1." and ".2"
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.at += 1;
            self.digits();
        }
        if self.peek(0) | 0x20 == b'e' {
            let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
            if self.peek(1 + sign).is_ascii_digit() {
                self.at += 1 + sign;
                self.digits();
            }
        }
        Kind::Number
    }

    fn digits(&mut self) {
        while self.peek(0).is_ascii_digit() || (self.peek(0) == b'_' && self.peek(1).is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// The longest run of operator characters that does not start a comment.
    fn operator(&mut self) -> Kind {
        while is_operator(self.peek(0)) && !self.looking_at(b"--") && !self.looking_at(b"/*") {
            self.at += 1;
        }
        Kind::Operator
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, LexError, tokens};

    fn words(text: &str) -> Vec<&str> {
        let all = tokens(text).expect("tokens");
        all.iter().filter(|t| t.kind == Kind::Word).map(|t| &text[t.start..t.end]).collect()
    }

    #[test]
    fn strings_and_comments_hide_their_words_and_nothing_else_does() {
        for (text, expected) in [
            ("a'b'c", vec!["a", "c"]),
            ("a 'it''s b' c", vec!["a", "c"]),
            (r"a 'b\' c", vec!["a", "c"]),
            (r"a E'b\' c' d", vec!["a", "d"]),
            ("a E'b'\n'\\' c' d", vec!["a", "d"]),
            ("a E'b' -- x\n  '\\' c' d", vec!["a", "d"]),
            ("a 'b' 'c' d", vec!["a", "d"]),
            ("a $$b'c$$ d", vec!["a", "d"]),
            ("a $x$b $$ $y$ c$x$ d", vec!["a", "d"]),
            ("a$x$b$x$ c", vec!["a$x$b$x$", "c"]),
            ("a /* b /* c */ d */ e", vec!["a", "e"]),
            ("a -- b\nc", vec!["a", "c"]),
            ("a -- b\rc", vec!["a", "c"]),
            ("a+--b\nc", vec!["a", "c"]),
            ("a*/*b*/c", vec!["a", "c"]),
            (r#"a "b ""c" d"#, vec!["a", "d"]),
            (r"a U&'\0062' c", vec!["a", "c"]),
            ("a B'01' X'1F' N'x' c", vec!["a", "c"]),
            ("1e5 2.5e-3 .5 1_000 0x1F", vec![]),
            ("1and 2", vec!["and"]),
            ("größe.ß", vec!["größe", "ß"]),
        ] {
            assert_eq!(words(text), expected, "{text}");
        }
    }

    #[test]
    fn kinds() {
        let kinds = |text: &str| tokens(text).expect("tokens").iter().map(|t| t.kind).collect::<Vec<_>>();
        assert_eq!(kinds("$1"), [Kind::Parameter]);
        assert_eq!(kinds("U&\"a\""), [Kind::UnicodeQuoted]);
        assert_eq!(kinds("u &\"a\""), [Kind::Word, Kind::Operator, Kind::Quoted]);
        assert_eq!(kinds("a::b"), [Kind::Word, Kind::Operator, Kind::Word]);
        assert_eq!(kinds("1..2"), [Kind::Number, Kind::Operator, Kind::Number]);
    }

    #[test]
    fn open_ends_are_errors() {
        assert_eq!(tokens("a /* b"), Err(LexError::Comment(2)));
        assert_eq!(tokens("a 'b"), Err(LexError::Text(2)));
        assert_eq!(tokens(r"a E'b\'"), Err(LexError::Text(2)));
        assert_eq!(tokens("a $$b$"), Err(LexError::Text(2)));
        assert_eq!(tokens("a \"b"), Err(LexError::Identifier(2)));
        assert_eq!(tokens("a \0"), Err(LexError::Character(2)));
        assert_eq!(tokens("a \\"), Err(LexError::Character(2)));
    }
}
