//! Names of stores: which are possible, in which form they are compared, and which look alike.

use std::borrow::Cow;

use unicode_normalization::{IsNormalized, UnicodeNormalization, char::is_combining_mark, is_nfc_quick};

use crate::resource::STORE_NAME_MAX;

/// The text in Unicode's form NFC: an `ü` is one character, whatever keyboard or editor it came from.
#[must_use]
pub fn normalised(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        IsNormalized::No | IsNormalized::Maybe => Cow::Owned(text.nfc().collect()),
    }
}

/// What names that look alike have in common: compatibility forms are resolved (a full-width `Ｏ` is an `O`); case,
/// spacing and characters that are not drawn make no difference.
#[must_use]
pub fn folded(text: &str) -> String {
    // Upper case first: only so `ß` meets `SS`, and the final sigma the other one.
    let cased = |text: &str| -> String {
        let upper = text.nfkc().filter(|c| !is_invisible(*c)).flat_map(char::to_uppercase);
        upper.flat_map(char::to_lowercase).collect()
    };
    // A change of case can undo the normal form, and the normal form can bring back what has a case.
    let folded: String = cased(&cased(text)).nfkc().collect();
    folded.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Whether a store can have this name.
///
/// # Errors
/// What is wrong with it, as the rest of a sentence.
pub fn check(name: &str) -> Result<(), String> {
    let begins = name.chars().next().is_some_and(char::is_alphanumeric);
    let possible = |c: char| c.is_alphanumeric() || is_combining_mark(c) || " ._&'-".contains(c);
    if !begins || name.ends_with(' ') {
        return Err("must begin with a letter or a digit and must not end with a space".to_owned());
    }
    if let Some(other) = name.chars().find(|c| !possible(*c) || is_invisible(*c)) {
        let possible = "letters and digits of any script, spaces and . _ & ' - are possible";
        return Err(format!("holds U+{:04X}: {possible}", u32::from(other)));
    }
    if name.chars().count() > STORE_NAME_MAX {
        return Err(format!("has more than {STORE_NAME_MAX} characters"));
    }
    Ok(())
}

/// Letters and combining marks that are not drawn: Unicode's `Default_Ignorable_Code_Point` among what a name may hold.
const fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{034F}' | '\u{115F}'..='\u{1160}' | '\u{17B4}'..='\u{17B5}' | '\u{180B}'..='\u{180F}' | '\u{3164}'
            | '\u{FE00}'..='\u{FE0F}' | '\u{FFA0}' | '\u{E0100}'..='\u{E01EF}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_any_script_are_possible_and_what_is_not_drawn_is_not() {
        let good =
            ["Zürich", "Zu\u{308}rich", "Łódź", "東京", "Αθήνα", "São João", "पुणे", "King's Cross", "7th & Main", "A"];
        for name in good {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for bad in [
            "",
            " One",
            "One ",
            "-One",
            "One\t",
            "O\u{200B}ne",
            "O\u{FE0F}ne",
            "O\u{34F}ne",
            "Shop/1",
            "\u{3164}",
            "One\u{A0}",
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
        assert!(check(&"ü".repeat(63)).is_ok() && check(&"ü".repeat(64)).is_err());
    }

    #[test]
    fn names_are_compared_in_one_normal_form() {
        assert_eq!(normalised("Zu\u{308}rich"), "Zürich");
        assert!(matches!(normalised("Zürich"), Cow::Borrowed(_)));
    }

    #[test]
    fn names_that_look_alike_fold_to_the_same() {
        for (one, other) in [
            ("One", "one"),
            ("One", "One "),
            ("Store 1", "Store  1"),
            ("Zürich", "ZU\u{308}RICH"),
            ("Straße", "STRASSE"),
            ("One", "Ｏｎｅ"),
            ("ΟΔΟΣ", "οδος"),
            ("One", "On\u{FE0F}e"),
            ("ﬁve", "FIVE"),
        ] {
            assert_eq!(folded(one), folded(other), "{one:?} {other:?}");
        }
        for (one, other) in [("Zürich", "Zurich"), ("Store 1", "Store 2"), ("Store 1", "Store1")] {
            assert_ne!(folded(one), folded(other), "{one:?} {other:?}");
        }
    }
}
