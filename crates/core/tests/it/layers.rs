//! Which module may use which: the table of ARCHITECTURE.md, checked.

use std::fs;
use std::path::{Path, PathBuf};

/// Layers from the bottom. Within a layer modules may use each other only where the flag says so.
const LAYERS: &[(&[&str], bool)] = &[
    (&["error", "value", "sample", "world", "clock", "metrics", "buffer", "per_process", "sync", "words"], true),
    (&["source", "codec", "engine", "export", "verdict"], false),
    (&["fetch", "format", "manifest", "cache", "order"], false),
    (&["prefetch", "collate", "state"], false),
    (&["config", "dataset", "keyed", "loader", "object", "simulate"], true),
];

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|(modules, _)| modules.contains(&module))
}

fn may_use(user: &str, used: &str) -> bool {
    match (layer_of(user), layer_of(used)) {
        (Some(above), Some(below)) => user == used || above > below || above == below && LAYERS[above].1,
        _ => false,
    }
}

/// What a line refers to by `crate::`; also several at once, as in `crate::{error, value}`.
fn used_in(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap_or_default();
    let after = code.split("crate::").skip(1);
    after
        .flat_map(|rest| match rest.strip_prefix('{') {
            Some(list) => list.split('}').next().unwrap_or_default().split(',').map(first_name).collect(),
            None => vec![first_name(rest)],
        })
        .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
        .collect()
}

fn first_name(path: &str) -> String {
    path.trim().chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect()
}

fn offences(module: &str, file: &Path, text: &str) -> Vec<String> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().enumerate();
    let wrong = lines.flat_map(|(number, line)| {
        let used = used_in(line).into_iter().filter(|used| !may_use(module, used));
        used.map(move |used| format!("{}:{}: `{module}` uses `{used}`", file.display(), number + 1)).collect::<Vec<_>>()
    });
    wrong.collect()
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("readable").map(|entry| entry.expect("entry").path());
    entries.flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] }).collect()
}

#[test]
fn no_module_uses_one_of_its_own_layer_or_above() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    for file in sources(&root) {
        let relative = file.strip_prefix(&root).expect("below");
        let module = first_name(&relative.to_string_lossy());
        let is_test = relative.iter().any(|part| part == "tests" || part == "tests.rs");
        if module == "lib" || is_test {
            continue;
        }
        assert!(
            layer_of(&module).is_some(),
            "`{module}` is in no layer: add it to the table here and in ARCHITECTURE.md"
        );
        found.extend(offences(&module, relative, &fs::read_to_string(&file).expect("text")));
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn the_check_finds_an_offence() {
    let text =
        "use crate::error::Error;\nuse crate::{value::Value, format::Limits};\nfn f() -> crate::source::Page {}\n";
    assert_eq!(offences("manifest", Path::new("x.rs"), text), ["x.rs:2: `manifest` uses `format`"]);
    assert_eq!(offences("source", Path::new("x.rs"), "use crate::engine::Engine; // crate::dataset").len(), 1);
    assert!(offences("dataset", Path::new("x.rs"), text).is_empty());
}
