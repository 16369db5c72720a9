//! What is wrong with a setting, in the words of whoever wrote it: serde, which finds it out, speaks of Rust's types.

/// What serde wanted, and how people call it.
const WANTED: &[(&str, &str)] = &[
    ("usize", "a whole number, 0 or more"),
    ("u64", "a whole number, 0 or more"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("f64", "a number"),
    ("a boolean", "true or false"),
    ("a string", "text"),
    ("string or map", "text"),
    ("string or table", "text"),
    ("path string", "a path"),
    ("a map", "a table of settings"),
];

/// What it found instead: how it begins to say so, and how people do.
const FOUND: &[(&str, &str)] = &[
    ("null", "None"),
    ("unit value", "None"),
    ("boolean", "truth value"),
    ("integer", "whole number"),
    ("floating point", "number"),
    ("string", "text"),
    ("sequence", "list"),
    ("map", "table"),
];

/// Reads JSON; otherwise the path of the setting that is wrong, a dot where it is all of it, and what is wrong with it.
pub(crate) fn read_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, (String, String)> {
    let mut json = serde_json::Deserializer::from_str(text);
    serde_path_to_error::deserialize(&mut json)
        .map_err(|cause| (cause.path().to_string(), in_words(&cause.inner().to_string())))
}

/// Says again what serde said of a setting.
pub(crate) fn in_words(said: &str) -> String {
    // Where the text was is of no use to who wrote no text; a setting has a name.
    let said = said.rsplit_once(" at line ").map_or(said, |(said, _)| said);
    let beginnings = [
        ("unknown field", "unknown setting"),
        ("missing field", "missing setting"),
        ("expected value", "expected text"),
    ];
    let said = renamed(said, &beginnings);
    // What was found may be text with any words in it.
    let Some((found, wanted)) = said.rsplit_once(", expected ") else { return said };
    let found = match found.split_once(": ") {
        Some((kind, found)) => format!("{kind}: {}", renamed(found, FOUND)),
        None => found.to_owned(),
    };
    let wanted = match WANTED.iter().find(|(of, _)| *of == wanted) {
        Some((_, words)) => words,
        None if wanted.starts_with("struct ") => "a table of settings",
        None => wanted,
    };
    format!("{found}, expected {wanted}")
}

/// With another beginning, if it is one of these.
fn renamed(said: &str, words: &[(&str, &str)]) -> String {
    let other = words.iter().find_map(|(of, words)| Some((words, said.strip_prefix(of)?)));
    other.map_or_else(|| said.to_owned(), |(words, rest)| format!("{words}{rest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(deny_unknown_fields, default)]
    #[allow(dead_code)] // only what is wrong with them is looked at
    struct Settings {
        count: usize,
        retries: u32,
        share: f64,
        flag: bool,
        text: String,
        inner: Option<Box<Settings>>,
        word: Option<Word>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Word {
        One,
    }

    fn said(json: &str) -> String {
        in_words(&serde_json::from_str::<Settings>(json).expect_err("wrong").to_string())
    }

    #[test]
    fn no_type_of_rusts_is_named() {
        for (json, words) in [
            (r#"{"count": -1}"#, "invalid value: whole number `-1`, expected a whole number, 0 or more"),
            (r#"{"count": 1.5}"#, "invalid type: number `1.5`, expected a whole number, 0 or more"),
            (r#"{"count": null}"#, "invalid type: None, expected a whole number, 0 or more"),
            (
                r#"{"retries": 4294967296}"#,
                "invalid value: whole number `4294967296`, expected a whole number from 0 to 4294967295",
            ),
            (r#"{"share": "a lot"}"#, "invalid type: text \"a lot\", expected a number"),
            (r#"{"flag": 1}"#, "invalid type: whole number `1`, expected true or false"),
            (r#"{"text": true}"#, "invalid type: truth value `true`, expected text"),
            (r#"{"text": [1]}"#, "invalid type: list, expected text"),
            (r#"{"inner": 3}"#, "invalid type: whole number `3`, expected a table of settings"),
            (r#"{"word": 3}"#, "expected text"),
            (r#"{"word": "two"}"#, "unknown variant `two`, expected `one`"),
        ] {
            assert_eq!(said(json), words, "{json}");
        }
        assert!(said(r#"{"cuont": 1}"#).starts_with("unknown setting `cuont`, expected one of `count`, `retries`"));
    }

    #[test]
    fn what_the_user_wrote_is_repeated_as_it_is() {
        let words = said(r#"{"count": "string, expected usize"}"#);
        assert_eq!(words, "invalid type: text \"string, expected usize\", expected a whole number, 0 or more");
        assert_eq!(in_words("something else"), "something else");
    }
}
