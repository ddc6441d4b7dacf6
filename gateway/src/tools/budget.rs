//! How much of an answer a model can hold.

use super::{
    ToolOutput,
    table::{Node, quoted},
};

/// Bytes of a token, for counting. Tokenizers differ and none can be had offline: English takes four and a half bytes a
/// token, JSON with digits and identifiers about three, and so do scripts of three bytes a character. The least of them
/// makes the count err on the safe side.
pub const BYTES_PER_TOKEN: usize = 3;
/// Tokens of an answer unless configured otherwise. Claude Code cuts at 25,000; it is the lowest limit known of a client.
pub const TOKENS: u32 = 24_000;
/// Bytes that the sentence about what is left out may take.
const NOTE: usize = 600;

/// Most tokens of one answer. Structured content and text each keep to it: a client gives its model one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    tokens: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Self::new(TOKENS)
    }
}

impl Budget {
    /// So many tokens.
    #[must_use]
    pub const fn new(tokens: u32) -> Self {
        Self { tokens }
    }

    /// Most bytes of either form.
    #[must_use]
    pub const fn bytes(self) -> usize {
        (self.tokens as usize).saturating_mul(BYTES_PER_TOKEN)
    }

    /// Most bytes where a sentence has to say what is left out.
    #[must_use]
    pub const fn bytes_beside_a_note(self) -> usize {
        self.bytes().saturating_sub(NOTE)
    }

    /// What is left out and how to get it, in a sentence.
    #[must_use]
    pub fn sentence(self, left_out: &str, rest: &str) -> String {
        format!("{left_out} left out, since an answer takes at most about {} tokens; {rest}", self.tokens)
    }

    /// An answer with both of its forms, cut to the budget: its largest lists end earlier, `leftOut` counts what they lack,
    /// and `note` says how to get it.
    ///
    /// # Errors
    /// `structured` is no JSON.
    pub fn fit(self, structured: String, rest: &str) -> serde_json::Result<ToolOutput> {
        let node = Node::parse(&structured)?;
        let text = node.text();
        if structured.len().max(text.len()) <= self.bytes() {
            return Ok(ToolOutput { structured, text });
        }
        Ok(self.cut(node, rest))
    }

    /// An answer whose text is its own, cut only where it has to be.
    ///
    /// # Errors
    /// The structured content is no JSON.
    pub fn keep(self, output: ToolOutput, rest: &str) -> serde_json::Result<ToolOutput> {
        if output.structured.len().max(output.text.len()) <= self.bytes() {
            return Ok(output);
        }
        self.fit(output.structured, rest)
    }

    fn cut(self, mut node: Node<'_>, rest: &str) -> ToolOutput {
        let mut left_out: Vec<(String, usize)> = Vec::new();
        loop {
            let (json, text) = (node.json(), node.text());
            let size = json.len().max(text.len());
            let over = size.saturating_sub(self.bytes_beside_a_note());
            if over == 0 {
                break;
            }
            let Some((path, items)) = largest(&mut node, String::new()) else { break };
            let (count, bytes) = (items.len(), items.iter().map(|item| item.json().len() + 1).sum::<usize>().max(1));
            // The text may be the longer form: what the list has of it is about as much as it has of the JSON.
            let excess = over.saturating_mul(json.len()).div_ceil(size);
            // Half of it at a time: where two lists are long, none goes before the other has become as short.
            let keep = (count.saturating_mul(bytes.saturating_sub(excess)) / bytes).max(count / 2).min(count - 1);
            items.truncate(keep);
            match left_out.iter_mut().find(|(known, _)| *known == path) {
                Some((_, known)) => *known += count - keep,
                None => left_out.push((path, count - keep)),
            }
        }
        if let Node::Object(members) = &mut node {
            let counts: Vec<_> = left_out.iter().map(|(path, count)| format!("{count} of {path}")).collect();
            let note = self.sentence(&format!("{} are", counts.join(" and ")), rest);
            let counts = left_out.into_iter().map(|(path, count)| (path, Node::Scalar(count.to_string().into())));
            members.retain(|(name, _)| name != "note");
            members.push(("leftOut".to_owned(), Node::Object(counts.collect())));
            members.push(("note".to_owned(), Node::Scalar(quoted(&note).into())));
        }
        ToolOutput { structured: node.json(), text: node.text() }
    }
}

/// The list that takes most bytes, with its path; lists inside of others count as theirs.
fn largest<'n, 'a>(node: &'n mut Node<'a>, path: String) -> Option<(String, &'n mut Vec<Node<'a>>)> {
    match node {
        Node::List(items) if !items.is_empty() => Some((path, items)),
        Node::Object(members) => members
            .iter_mut()
            .filter_map(|(name, value)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                largest(value, path)
            })
            .max_by_key(|(_, items)| items.iter().map(|item| item.json().len()).sum::<usize>()),
        Node::List(_) | Node::Scalar(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Budget;

    #[test]
    fn what_fits_passes_as_it_is() {
        let fitted = Budget::new(100).fit(r#"{"a":1.50,"b":["x"]}"#.to_owned(), "").expect("JSON");
        assert_eq!((fitted.structured.as_str(), fitted.text.as_str()), (r#"{"a":1.50,"b":["x"]}"#, "a: 1.50\nb: x"));
    }

    #[test]
    fn the_largest_lists_end_earlier_and_both_forms_say_so() {
        let stores: Vec<_> = (0..300).map(|n| json!({"name": format!("Store {n}"), "revenue": n})).collect();
        let days: Vec<_> =
            (0..900).map(|n| json!({"date": format!("2026-01-{n}"), "revenue": n, "orders": n})).collect();
        let answer = json!({"stores": stores, "stockOuts": {"count": 900, "items": days}, "role": "x"});
        let budget = Budget::new(3_000);
        let fitted = budget.fit(answer.to_string(), "ask for a shorter period").expect("JSON");
        assert!(fitted.structured.len().max(fitted.text.len()) <= budget.bytes());
        assert!(
            fitted.structured.len() > budget.bytes() / 2,
            "more is cut than has to be: {}",
            fitted.structured.len()
        );
        let value: Value = serde_json::from_str(&fitted.structured).expect("JSON");
        let count = |list: &Value| list.as_array().map_or(0, Vec::len);
        let left = |path: &str| usize::try_from(value["leftOut"][path].as_u64().unwrap_or(0)).expect("a count");
        assert_eq!(count(&value["stores"]) + left("stores"), 300);
        assert_eq!(count(&value["stockOuts"]["items"]) + left("stockOuts.items"), 900);
        assert!(left("stockOuts.items") > 0 && value["role"] == "x");
        let note = value["note"].as_str().expect("a note");
        assert!(
            note.contains("of stockOuts.items") && note.contains("3000 tokens; ask for a shorter period"),
            "{note}"
        );
        assert!(
            fitted.text.contains(note)
                && fitted.text.contains(&format!("stockOuts.items ({})", count(&value["stockOuts"]["items"])))
        );
    }

    #[test]
    fn one_item_that_is_too_long_is_left_out_as_well() {
        let fitted = Budget::new(300).fit(json!({"a": ["x".repeat(2_000)]}).to_string(), "ask").expect("JSON");
        assert_eq!(serde_json::from_str::<Value>(&fitted.structured).expect("JSON")["leftOut"], json!({"a": 1}));
    }
}
