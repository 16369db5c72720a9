//! Finding out where the key is in the names of a sample's objects, when nobody says.
//!
//! Whoever preprocesses names files after what they hold: `latent_0007.pt` and `condition_0007.pt` are one sample. What all names of
//! a field begin and end with may be left out of the key, up to where a word ends; of all that may be left out, that is left out
//! which brings the fields together best.

use std::collections::HashSet;

use super::{KeyPattern, Listing};

/// Names that are looked at, of each field: the first ones in their order, which are much the same samples of all fields.
const LOOKED_AT: usize = 4096;

/// The pattern of every field: those that bring most samples together and, among those, leave least out of the key. `folder` is
/// below which a field's objects lie; `stem` takes format and compression suffixes off.
pub fn guess_pairs(fields: &[(&Listing, &str)], stem: fn(&str) -> &str) -> Vec<KeyPattern> {
    let names: Vec<Vec<String>> = fields.iter().map(|(listing, folder)| stems(listing, folder, stem)).collect();
    let Some((first, others)) = names.split_first() else { return Vec::new() };
    let usual = || fields.iter().map(|_| KeyPattern::default()).collect();
    if others.is_empty() || others.iter().all(|other| other == first) {
        return usual();
    }
    let ways = |names: &[String]| patterns(names).into_iter().map(|way| (keys(names, &way), way)).collect::<Vec<_>>();
    let (of_first, of_others) = (ways(first), others.iter().map(|names| ways(names)).collect::<Vec<_>>());
    let mut best: (usize, Vec<&KeyPattern>) = (0, Vec::new());
    for (keys, way) in &of_first {
        let fits: Vec<_> = of_others.iter().map(|ways| most_in_common(keys, ways)).collect();
        // A sample is whole only where all of its fields are.
        let together = fits.iter().map(|(count, _)| *count).min().unwrap_or_default();
        if together > best.0 {
            best = (together, std::iter::once(way).chain(fits.into_iter().map(|(_, way)| way)).collect());
        }
    }
    if best.1.is_empty() { usual() } else { best.1.into_iter().cloned().collect() }
}

/// The way that has most keys in common, the one that comes first among equals.
fn most_in_common<'a>(keys: &HashSet<String>, ways: &'a [(HashSet<String>, KeyPattern)]) -> (usize, &'a KeyPattern) {
    let mut best = (0, &ways[0].1);
    for (others, way) in ways {
        let count = others.intersection(keys).count();
        if count > best.0 {
            best = (count, way);
        }
    }
    best
}

fn stems(listing: &Listing, folder: &str, stem: fn(&str) -> &str) -> Vec<String> {
    let mut stems: Vec<_> =
        listing.keys().filter_map(|key| key.strip_prefix(folder)).map(|key| stem(key).to_owned()).collect();
    stems.sort_unstable();
    stems.dedup();
    stems.truncate(LOOKED_AT);
    stems
}

fn keys(stems: &[String], pattern: &KeyPattern) -> HashSet<String> {
    stems.iter().filter_map(|stem| pattern.key_in(stem)).map(std::borrow::Cow::into_owned).collect()
}

/// What may stand before and behind the key, the least first.
fn patterns(stems: &[String]) -> Vec<KeyPattern> {
    let names: Vec<&str> = stems.iter().map(|stem| stem.rsplit_once('/').map_or(&**stem, |(_, name)| name)).collect();
    let Some((&first, others)) = names.split_first() else { return vec![KeyPattern::default()] };
    let before = others.iter().fold(first.len(), |len, name| common(first.chars(), name.chars()).min(len));
    let behind = others.iter().fold(first.len(), |len, name| common(first.chars().rev(), name.chars().rev()).min(len));
    let is_in_word = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    let bounds = || ends_of_words(first);
    // A key begins and ends with a word, not with what is between them.
    let starts = bounds().filter(|&at| at <= before && is_in_word(first[at..].chars().next()));
    let ends = || bounds().filter(|&at| first.len() - at <= behind && is_in_word(first[..at].chars().next_back()));
    let mut found: Vec<_> = starts
        .flat_map(|start| ends().filter(move |&end| start < end).map(move |end| (start, end)))
        // The longest key first.
        .map(|(start, end)| (first.len() - (end - start), KeyPattern::around(&first[..start], &first[end..])))
        // Of one name alone everything is in common: something has to be left of every name.
        .filter(|(_, pattern)| names.iter().all(|name| pattern.key_in(name).is_some()))
        .collect();
    found.sort_by_key(|(left_out, _)| *left_out);
    found.into_iter().map(|(_, pattern)| pattern).collect()
}

/// Bytes that both begin with.
fn common(one: impl Iterator<Item = char>, other: impl Iterator<Item = char>) -> usize {
    one.zip(other).take_while(|(one, other)| one == other).map(|(one, _)| one.len_utf8()).sum()
}

/// Where a word of a name begins or ends: behind and before what is neither letter nor digit, and between letters and digits.
fn ends_of_words(name: &str) -> impl Iterator<Item = usize> + '_ {
    let kind = |letter: char| match letter {
        _ if letter.is_numeric() => 0,
        _ if letter.is_alphabetic() => 1,
        _ => 2,
    };
    let changes = name
        .char_indices()
        .zip(name.chars().skip(1))
        .filter(move |((_, one), next)| kind(*one) != kind(*next) || kind(*one) == 2)
        .map(|((at, one), _)| at + one.len_utf8());
    std::iter::once(0).chain(changes).chain(std::iter::once(name.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{ObjectMeta, Version};

    fn listed(names: &[&str]) -> Listing {
        let object = |name: &&str| ObjectMeta { key: format!("{name}.pt"), size: 1, version: Version::Unknown };
        names.iter().map(object).collect()
    }

    fn guessed(fields: &[&[&str]]) -> Vec<String> {
        let listings: Vec<_> = fields.iter().map(|names| listed(names)).collect();
        let fields: Vec<_> = listings.iter().map(|listing| (listing, "")).collect();
        guess_pairs(&fields, |key| key.strip_suffix(".pt").unwrap_or(key)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn names_after_what_they_hold_are_told_from_the_key() {
        for (fields, expected) in [
            (
                &[&["latent_0001", "latent_0002"][..], &["condition_0001", "condition_0002"]][..],
                &["latent_*", "condition_*"][..],
            ),
            (&[&["latent_7"], &["condition_7"]], &["latent_*", "condition_*"]),
            (&[&["a/latent_7", "b/latent_8"], &["a/condition_7", "b/condition_8"]], &["latent_*", "condition_*"]),
            (&[&["0001", "0002"], &["0001.mask", "0002.mask"]], &["*", "*.mask"]),
            (
                &[&["latent10", "latent11"], &["cond10", "cond11"], &["10_motion", "11_motion"]],
                &["latent*", "cond*", "*_motion"],
            ),
            (&[&["latent_cat", "latent_car"], &["text_cat", "text_car"]], &["latent_*", "text_*"]),
            (&[&["latent_clip_1", "latent_clip_2"], &["text_clip_1", "text_dog_1"]], &["latent_*", "text_*"]),
        ] {
            assert_eq!(guessed(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn equal_names_and_names_that_nothing_joins_are_taken_whole() {
        assert_eq!(guessed(&[&["clip_1", "clip_2"], &["clip_1", "clip_2"]]), ["*", "*"]);
        assert_eq!(guessed(&[&["clip_1", "clip_2"], &["clip_1"]]), ["*", "*"]);
        assert_eq!(guessed(&[&["latent_1"]]), ["*"]);
        assert_eq!(guessed(&[&["a_1", "a_2"], &["b_x", "b_y"]]), ["*", "*"]);
    }

    #[test]
    fn partners_that_are_missing_do_not_hide_the_others() {
        let latents: Vec<_> = (0..50).map(|number| format!("latent_{number:04}")).collect();
        let texts: Vec<_> =
            (0..50).filter(|number| number % 7 != 0).map(|number| format!("condition_{number:04}")).collect();
        let names = |owned: &'static [String]| owned.iter().map(String::as_str).collect::<Vec<_>>();
        let (latents, texts) = (names(latents.leak()), names(texts.leak()));
        assert_eq!(guessed(&[&latents, &texts]), ["latent_*", "condition_*"]);
    }
}
