//! The tokens of a statement with what reading its structure needs: names, and where each bracket closes.

use std::{borrow::Cow, ops::Range};

use crate::gate::{
    lexer::{Kind, Token},
    name,
};

/// Brackets nested deeper than this are refused: no statement needs them, and reading them uses the thread's stack.
pub const DEPTH_MAX: usize = 120;

/// Why brackets cannot be matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// The bracket at this token is not closed, or was never opened.
    Open(usize),
    /// The bracket at this token is deeper than [`DEPTH_MAX`].
    Deep(usize),
}

/// Tokens, their names, and where each group ends.
pub struct Text<'a> {
    text: &'a str,
    pub tokens: &'a [Token],
    names: Vec<Cow<'a, str>>,
    labels: Vec<bool>,
    close: Vec<usize>,
}

/// Reserved words that cannot begin an expression: the expression before them has ended.
const AFTER_LABEL: [&str; 13] = [
    "from",
    "where",
    "group",
    "having",
    "window",
    "order",
    "limit",
    "offset",
    "fetch",
    "for",
    "union",
    "intersect",
    "except",
];

impl<'a> Text<'a> {
    /// Matches `(`, `[` and `CASE` with `)`, `]` and `END`.
    pub fn new(text: &'a str, tokens: &'a [Token]) -> Result<Self, Unmatched> {
        let names: Vec<_> = tokens.iter().map(|token| name(text, token)).collect();
        let mut read = Self { text, tokens, names, labels: vec![false; tokens.len()], close: vec![0; tokens.len()] };
        for i in 1..tokens.len() {
            read.labels[i] = read.is(i - 1, b'.') || read.is_as(i - 1);
        }
        let mut open: Vec<(usize, u8)> = Vec::new();
        for (i, token) in tokens.iter().enumerate() {
            let due = match token.kind {
                Kind::Punctuation(b'(') => Some(b')'),
                Kind::Punctuation(b'[') => Some(b']'),
                _ if read.is_word(i, "case") && !read.is_label_case(i) => Some(b'E'),
                _ => None,
            };
            if let Some(due) = due {
                if open.len() >= DEPTH_MAX {
                    return Err(Unmatched::Deep(i));
                }
                open.push((i, due));
                continue;
            }
            let found = match token.kind {
                Kind::Punctuation(byte @ (b')' | b']')) => byte,
                _ if read.is_word(i, "end") => b'E',
                _ => continue,
            };
            match open.pop() {
                Some((start, due)) if due == found => read.close[start] = i,
                Some((start, _)) => return Err(Unmatched::Open(start)),
                None => return Err(Unmatched::Open(i)),
            }
        }
        match open.pop() {
            Some((start, _)) => Err(Unmatched::Open(start)),
            None => Ok(read),
        }
    }

    /// The name of an identifier or keyword.
    pub fn name(&self, i: usize) -> &str {
        &self.names[i]
    }

    /// The cost of a token: a long constant is copied whole with each copy.
    pub fn units(&self, i: usize) -> u64 {
        match self.tokens[i].kind {
            Kind::Punctuation(_) => 0,
            Kind::Text => 1 + (self.tokens[i].end - self.tokens[i].start) as u64 / 64,
            _ => 1,
        }
    }

    /// The value of a token that is a plain number.
    pub fn number(&self, i: usize) -> Option<u64> {
        let token = self.tokens[i];
        let written = || self.text[token.start..token.end].replace('_', "").parse().ok();
        (token.kind == Kind::Number).then(written).flatten()
    }

    /// Whether it is this keyword: unquoted, and neither a label after AS nor a column after a point. A keyword that
    /// PostgreSQL reserves can occur nowhere else.
    pub fn is_word(&self, i: usize, word: &str) -> bool {
        self.is_bare(i, word) && !self.labels[i]
    }

    /// The same for several keywords.
    pub fn is_one_of(&self, i: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is_word(i, word))
    }

    /// Whether it is this unquoted word, wherever it occurs.
    pub fn is_bare(&self, i: usize, word: &str) -> bool {
        self.tokens.get(i).is_some_and(|token| token.kind == Kind::Word) && self.names[i] == word
    }

    /// Whether it is the keyword AS, and not a label of that name.
    pub fn is_as(&self, i: usize) -> bool {
        self.is_word(i, "as")
    }

    /// In `SELECT 1 case FROM t`, `case` is a column's label.
    fn is_label_case(&self, i: usize) -> bool {
        let next = i + 1;
        next >= self.tokens.len()
            || [b',', b')', b']'].iter().any(|byte| self.is(next, *byte))
            || self.is_one_of(next, &AFTER_LABEL)
    }

    /// Whether it is this punctuation.
    pub fn is(&self, i: usize, byte: u8) -> bool {
        self.tokens.get(i).is_some_and(|token| token.kind == Kind::Punctuation(byte))
    }

    /// Whether it is this operator.
    pub fn is_operator(&self, i: usize, operator: &str) -> bool {
        self.tokens
            .get(i)
            .is_some_and(|token| token.kind == Kind::Operator && &self.text[token.start..token.end] == operator)
    }

    /// Whether it is an identifier or a keyword.
    pub fn is_name(&self, i: usize) -> bool {
        self.tokens.get(i).is_some_and(|token| matches!(token.kind, Kind::Word | Kind::Quoted))
    }

    /// The inside of the group that opens at `i`, if one does.
    pub fn group(&self, i: usize) -> Option<Range<usize>> {
        self.close.get(i).filter(|close| **close > 0).map(|close| i + 1..*close)
    }

    /// The token after the one at `i`, or after the group that opens there.
    pub fn after(&self, i: usize) -> usize {
        self.group(i).map_or(i + 1, |inside| inside.end + 1)
    }

    /// Whether a range is a query rather than an expression or a tree of joins.
    pub fn is_query(&self, range: &Range<usize>) -> bool {
        let first = range.start;
        if first >= range.end {
            return false;
        }
        if self.is_one_of(first, &["select", "with", "values", "table"]) {
            return true;
        }
        let Some(inside) = self.group(first).filter(|_| self.is(first, b'(')) else { return false };
        let next = inside.end + 1;
        let goes_on = ["union", "intersect", "except", "order", "limit", "offset", "fetch", "for"];
        self.is_query(&inside) && (next >= range.end || self.is_one_of(next, &goes_on))
    }

    /// A range split at the tokens for which `is_cut` is true, outside of groups; the separators belong to no part.
    pub fn cut(&self, range: Range<usize>, is_cut: impl Fn(usize) -> bool) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let (mut start, mut i) = (range.start, range.start);
        while i < range.end {
            if is_cut(i) {
                parts.push(start..i);
                start = i + 1;
            }
            i = self.after(i);
        }
        parts.push(start..range.end);
        parts
    }

    /// A list split at its commas; no parts for an empty list.
    pub fn list(&self, range: Range<usize>) -> Vec<Range<usize>> {
        if range.is_empty() { Vec::new() } else { self.cut(range, |i| self.is(i, b',')) }
    }
}
