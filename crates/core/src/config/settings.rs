//! Every setting in words: what `docs/configuration.md` and the file of `headwater init` are made of.
//!
//! The words are the doc comments of the structures that are read, in the very files that define them, so that they are written
//! down once and none can be left out.

/// A table of `headwater.toml` and the class that has its settings in Python.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Table {
    /// As in the file: empty for what stands above all tables.
    pub name: &'static str,
    /// As in Python.
    pub python: &'static str,
    /// What it is about.
    pub about: String,
    /// In their order.
    pub settings: Vec<Setting>,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Setting {
    /// The same in the file and in Python.
    pub name: &'static str,
    /// How its value is written.
    pub kind: Kind,
    /// Whether it may be left without a value.
    pub is_optional: bool,
    /// What it is.
    pub meaning: String,
    /// What holds when it is not given; empty where that goes without saying.
    pub default: String,
}

/// How a value is written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Bytes, as a number or like `"8GB"`.
    Size,
    /// Seconds, as a number or like `"30s"`.
    Duration,
    /// A whole number.
    Count,
    /// A number.
    Number,
    /// `true` or `false`.
    Flag,
    /// Text, such as a path.
    Text,
    /// One of these words.
    OneOf(Vec<String>),
    /// A table of its own.
    Entries,
    /// A URI, a table with `uri` and options beside it, or a list of those.
    Places,
}

/// A structure: the table that it is, its class in Python, its name, and the file that defines it.
type Source = (&'static str, &'static str, &'static str, &'static str);

const SOURCES: &[Source] = &[
    ("", "StreamingDataset", "DatasetConfig", include_str!("mod.rs")),
    ("cache", "CacheConfig", "CacheConfig", include_str!("cache.rs")),
    ("prefetch", "PrefetchConfig", "PrefetchConfig", include_str!("prefetch.rs")),
    ("fetch", "FetchConfig", "FetchConfig", include_str!("fetch.rs")),
    ("fetch.throttle", "Throttle", "ThrottleConfig", include_str!("fetch.rs")),
    ("loader", "StreamingDataLoader", "LoaderConfig", include_str!("loader.rs")),
];

/// Where words are defined that a setting may be.
const CHOICES: &[&str] = &[
    include_str!("mod.rs"),
    include_str!("cache.rs"),
    include_str!("fetch.rs"),
    include_str!("on_error.rs"),
    include_str!("../cache/mod.rs"),
    include_str!("../collate/mod.rs"),
    include_str!("../manifest/join.rs"),
];

/// All tables.
pub fn tables() -> Vec<Table> {
    SOURCES.iter().map(table).collect()
}

fn table(&(name, python, structure, text): &Source) -> Table {
    let (before, body) = definition(text, "struct", structure).unwrap_or_default();
    let mut settings = Vec::new();
    let mut words = Vec::new();
    for line in body.lines().map(str::trim) {
        if let Some(word) = line.strip_prefix("///") {
            words.push(word.trim());
        } else if let Some((field, kind)) = line.strip_prefix("pub ").and_then(|line| line.split_once(": ")) {
            let said = plain(&words.join(" "));
            words.clear();
            let (is_optional, kind) = inner(kind.trim_end_matches(','));
            // What is a table of its own.
            if let Some(kind) = kind_of(kind) {
                let (meaning, default) = without_default(&said);
                settings.push(Setting { name: field, kind, is_optional, meaning, default });
            }
        }
    }
    let about: Vec<_> = before.lines().filter_map(|line| line.trim().strip_prefix("///")).map(str::trim).collect();
    Table { name, python, about: plain(&about.join(" ")), settings }
}

/// The comments above a definition, and what is between its braces.
fn definition<'a>(text: &'a str, what: &str, name: &str) -> Option<(&'a str, &'a str)> {
    let (before, rest) = text.split_once(&format!("\npub {what} {name} {{\n"))?;
    Some((before.rsplit_once("\n\n").map_or(before, |(_, comments)| comments), rest.split_once("\n}")?.0))
}

/// The type within an `Option`.
fn inner(kind: &'static str) -> (bool, &'static str) {
    match kind.strip_prefix("Option<").and_then(|kind| kind.strip_suffix('>')) {
        Some(kind) => (true, kind),
        None => (false, kind),
    }
}

fn kind_of(kind: &'static str) -> Option<Kind> {
    Some(match kind {
        "ByteSize" => Kind::Size,
        "Span" => Kind::Duration,
        "usize" | "u64" => Kind::Count,
        "f64" => Kind::Number,
        "bool" => Kind::Flag,
        "String" | "PathBuf" => Kind::Text,
        "Replicas" => Kind::Places,
        kind if kind.starts_with("IndexMap<") => Kind::Entries,
        kind => {
            let (_, body) = CHOICES.iter().find_map(|text| definition(text, "enum", kind))?;
            let variant = |line: &'static str| {
                line.strip_suffix(',').filter(|name: &&str| name.chars().all(char::is_alphanumeric))
            };
            Kind::OneOf(body.lines().filter_map(|line| variant(line.trim())).map(str::to_lowercase).collect())
        }
    })
}

/// A comment as a sentence for everybody: `` [`Ranks`](super::Ranks) `` is `` `Ranks` ``.
fn plain(comment: &str) -> String {
    let mut parts = comment.split("[`");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (path, rest) = part.split_once("`]").unwrap_or((part, ""));
        let name = path.rsplit("::").next().unwrap_or(path);
        // Of a path the last two names, since `open` alone says nothing.
        let owner = path.rsplit("::").nth(1).filter(|owner| owner.starts_with(char::is_uppercase));
        let rest = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest);
        text += &owner.map_or_else(|| format!("`{name}`{rest}"), |owner| format!("`{owner}::{name}`{rest}"));
    }
    text
}

/// The words without the sentence that says the default, and that.
fn without_default(words: &str) -> (String, String) {
    let Some((before, from)) = words.split_once("Default: ") else { return (words.to_owned(), String::new()) };
    let end = from.find(". ").map_or(from.len(), |at| at + 1);
    let (default, after) = from.split_at(end);
    let meaning = format!("{}{}", before, after.trim_start());
    (meaning.trim_end().to_owned(), default.trim_end_matches('.').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{CacheConfig, DatasetConfig, FetchConfig, LoaderConfig, PrefetchConfig, ThrottleConfig};
    use serde::de::DeserializeOwned;

    /// The names that a structure takes, as it tells whoever gives another.
    fn known<T: DeserializeOwned + std::fmt::Debug>() -> Vec<String> {
        let error = serde_json::from_str::<T>(r#"{"no such setting": 1}"#).expect_err("unknown").to_string();
        error.split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_setting_that_is_read_is_described() {
        let tables = tables();
        let names = |table: &str| {
            let table = tables.iter().find(|it| it.name == table).expect("a table");
            assert!(!table.about.is_empty());
            let mut names: Vec<_> = table.settings.iter().map(|setting| setting.name.to_owned()).collect();
            let prefix = if table.name.is_empty() { String::new() } else { format!("{}.", table.name) };
            names.extend(tables.iter().filter_map(|it| {
                it.name.strip_prefix(&prefix).filter(|name| !name.is_empty() && !name.contains('.')).map(str::to_owned)
            }));
            names.sort();
            names
        };
        let sorted = |mut names: Vec<String>| {
            names.sort();
            names
        };
        assert_eq!(names(""), sorted(known::<DatasetConfig>()));
        assert_eq!(names("cache"), sorted(known::<CacheConfig>()));
        assert_eq!(names("prefetch"), sorted(known::<PrefetchConfig>()));
        assert_eq!(names("fetch"), sorted(known::<FetchConfig>()));
        assert_eq!(names("fetch.throttle"), sorted(known::<ThrottleConfig>()));
        assert_eq!(names("loader"), sorted(known::<LoaderConfig>()));
    }

    #[test]
    fn every_setting_has_a_meaning_in_plain_words() {
        for setting in tables().iter().flat_map(|table| &table.settings) {
            let words = format!("{} {}", setting.meaning, setting.default);
            assert!(setting.meaning.ends_with('.'), "{setting:?}");
            assert!(!words.contains("[`") && !words.contains("::") || words.contains("Loader::open"), "{setting:?}");
        }
    }

    #[test]
    fn words_to_choose_from_are_those_that_are_read() {
        let settings: Vec<_> = tables().into_iter().flat_map(|table| table.settings).collect();
        let choices = |name: &str| {
            let setting = settings.iter().find(|setting| setting.name == name).expect("a setting");
            let Kind::OneOf(words) = &setting.kind else { panic!("{setting:?}") };
            words.join(" ")
        };
        assert_eq!(choices("policy"), "auto lru keep");
        assert_eq!(choices("on_error"), "raise skip substitute");
        assert_eq!(choices("on_missing"), "error skip");
        assert!(choices("collate").starts_with("stack list pad"));
    }

    #[test]
    fn a_default_is_a_sentence_of_its_own() {
        let said = without_default("Bytes of a thing. Default: 8 MiB, or so. More is refused.");
        assert_eq!(said, ("Bytes of a thing. More is refused.".into(), "8 MiB, or so".into()));
        assert_eq!(without_default("A share. Default: 0.05."), ("A share.".into(), "0.05".into()));
        assert_eq!(without_default("Nothing else."), ("Nothing else.".into(), String::new()));
    }
}
