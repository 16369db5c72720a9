//! The text of a `headwater.toml`.

use headwater::config::{DatasetConfig, Kind, LoaderConfig, Setting, Table, ThrottleConfig, tables};
use headwater::manifest::Manifest;
use serde_json::{Value, json};

/// Width of comments.
const WIDTH: usize = 100;

/// Settings that nearly everybody gives.
const USUAL: &[(&str, &str, &str)] = &[
    ("loader", "batch_size", "8"),
    ("loader", "shuffle", "true"),
    ("loader", "seed", "0"),
    ("loader", "drop_last", "true"),
];

/// Settings of one rank among others, or that the file has in another form.
const LEFT_OUT: &[&str] = &["follow", "guess_pairs", "rank", "world_size"];

/// What is to be in it.
pub(super) struct Found<'a> {
    pub(super) uri: &'a str,
    pub(super) options: &'a [(&'a str, &'a str)],
    pub(super) skips_missing: bool,
    pub(super) manifest: &'a Manifest,
}

/// The file.
pub(super) fn text(found: &Found<'_>) -> String {
    let Found { uri, manifest, .. } = found;
    let fields: Vec<_> = manifest.patterns().collect();
    let mut text = vec![format!(
        "# {} samples, listed at {uri} by `headwater init`. hw.open(\"headwater.toml\") opens the loader.\n\
         # What is a comment is left to its default. Sizes are like \"8GB\", times like \"30s\" or \"1h\".\n",
        manifest.len()
    )];
    let shown = tables();
    let (of_dataset, others) = shown.split_first().expect("the dataset's own table");
    let is_one = matches!(fields[..], [("", ..)]);
    if is_one {
        text.push(format!("\nsource = {}\n", quoted(uri)));
    }
    text.push(settings(of_dataset, found));
    if !is_one {
        text.push(
            "\n# Field and where it is: a URI, or a list of replicas, in order of preference.\n[fields]\n".to_owned(),
        );
        for (name, folder, _) in &fields {
            let place = format!("{}/{}", uri.trim_end_matches('/'), folder.trim_end_matches('/'));
            text.push(format!("{} = {}\n", key(name), quoted(&place)));
        }
        text.push(
            "\n# The `*` is the sample's key in the names of a field's files, without suffixes.\n[pairs]\n".to_owned(),
        );
        for (name, _, pattern) in &fields {
            text.push(format!("{} = {}\n", key(name), quoted(&pattern.to_string())));
        }
        text.push("\n# What a field is called in samples.\n# [rename]\n".to_owned());
        text.push(format!("# {} = \"another_name\"\n", key(fields[0].0)));
    }
    text.push(options(uri, found.options));
    for table in others {
        // One that makes a difference as soon as it is there.
        let mark = if table.name == "fetch.throttle" { "# " } else { "" };
        text.push(format!("\n{}{mark}[{}]\n", commented(&table.about), table.name));
        text.push(settings(table, found));
    }
    text.concat()
}

fn options(uri: &str, given: &[(&str, &str)]) -> String {
    let scheme = uri.split_once("://").map_or("file", |(scheme, _)| scheme);
    if scheme == "file" {
        return String::new();
    }
    let about = commented("How the place is reached. Leave credentials to the standard chains of its cloud.");
    if given.is_empty() {
        return format!("\n{about}# [storage_options.{scheme}]\n# endpoint = \"http://127.0.0.1:9000\"\n");
    }
    let lines: Vec<_> = given.iter().map(|(name, value)| format!("{} = {}\n", key(name), quoted(value))).collect();
    format!("\n{about}[storage_options.{scheme}]\n{}", lines.concat())
}

fn settings(table: &Table, found: &Found<'_>) -> String {
    let mut text = Vec::new();
    let shown = |setting: &&Setting| !matches!(setting.kind, Kind::Entries | Kind::Places);
    for setting in table.settings.iter().filter(shown).filter(|setting| !LEFT_OUT.contains(&setting.name)) {
        let usual = USUAL.iter().find(|(of, name, _)| (*of, *name) == (table.name, setting.name));
        let is_skipping = found.skips_missing && setting.name == "on_missing";
        let (mark, value) = match usual {
            Some((.., value)) => ("", (*value).to_owned()),
            None if is_skipping => ("", quoted("skip")),
            None => ("# ", example(table, setting)),
        };
        let default =
            if setting.default.is_empty() { String::new() } else { format!(" Default: {}.", setting.default) };
        text.push(format!(
            "\n{}{mark}{} = {value}\n",
            commented(&format!("{}{default}", setting.meaning)),
            setting.name
        ));
    }
    text.concat()
}

/// What a value looks like: the default where that is one.
fn example(table: &Table, setting: &Setting) -> String {
    let defaults = match table.name {
        "" => json!(DatasetConfig::default()),
        "loader" => json!(LoaderConfig::default()),
        "fetch.throttle" => json!(ThrottleConfig::default()),
        name => json!(DatasetConfig::default())[name].clone(),
    };
    let default = match &defaults[setting.name] {
        Value::Null => None,
        Value::Number(seconds) if setting.kind == Kind::Duration => {
            seconds.as_f64().map(|seconds| format!("\"{seconds}s\""))
        }
        value => Some(value.to_string()),
    };
    default.unwrap_or_else(|| match &setting.kind {
        Kind::Size => quoted("1GB"),
        Kind::Duration => quoted("30s"),
        Kind::Count => "8".to_owned(),
        Kind::Number => "0.05".to_owned(),
        Kind::Flag => "false".to_owned(),
        Kind::OneOf(words) => quoted(words.first().map_or("", |word| word)),
        _ => quoted(match setting.name {
            "disk" => "/nvme/headwater",
            "manifest" => "published",
            "device" => "cuda",
            _ => "",
        }),
    })
}

/// A string of TOML; what JSON makes of one is one.
fn quoted(text: &str) -> String {
    Value::from(text).to_string()
}

fn key(name: &str) -> String {
    let is_bare = !name.is_empty() && name.chars().all(|one| one.is_ascii_alphanumeric() || "_-".contains(one));
    if is_bare { name.to_owned() } else { quoted(name) }
}

/// Words as lines of comments.
fn commented(words: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in words.split(' ') {
        if lines.last().is_some_and(|line| line.len() + 1 + word.len() > WIDTH) {
            lines.push(String::from("#"));
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}
