//! From one page to all of them, side by side where that can be.
//!
//! The first page looks for folders, and each is listed by itself. Where there are very many, or none and the page is not the
//! last, one listing goes through all — one page after the other, unless the protocol can begin a listing after a name: then
//! names are looked for that divide what lies ahead, by counting up the digits of the names seen so far, and each part is
//! listed by itself. Names without such digits are not divided; they are listed whole all the same.

use futures_util::stream::{self, StreamExt, TryStreamExt};

use super::{Asked, Listed, Parsed, Protocol, Remote, request};
use crate::error::Result;
use crate::source::ObjectMeta;

/// More folders than this are listed in one go: each by itself, they would cost a request each.
const MOST_FOLDERS: usize = 64;
/// Names that are looked for at most, each with a request for one name.
const MOST_PROBES: usize = 96;
const PROBES_AT_ONCE: usize = 32;
/// Digits of decimal numbers and of hashes.
const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Where a listing goes on.
#[derive(Debug, Default, PartialEq, Eq)]
struct Cursor {
    is_shallow: bool,
    folder: String,
    /// Keys come after this one…
    after: String,
    /// …and not after this one, unless that is empty.
    until: String,
    token: Option<String>,
}

impl Cursor {
    fn from_token(token: &str) -> Self {
        let mut parts = token.splitn(5, '\0').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (kind, folder, after, until, token) = (next(), next(), next(), next(), next());
        Self { is_shallow: kind == "shallow", folder, after, until, token: (!token.is_empty()).then_some(token) }
    }

    fn into_token(self) -> String {
        let kind = if self.is_shallow { "shallow" } else { "deep" };
        [kind, &self.folder, &self.after, &self.until, self.token.as_deref().unwrap_or_default()].join("\0")
    }

    fn asked(&self) -> Asked<'_> {
        let after = (!self.after.is_empty() && self.token.is_none()).then_some(&*self.after);
        Asked { folder: &self.folder, is_shallow: self.is_shallow, after, token: self.token.as_deref(), max: None }
    }

    /// What a page says, and where to go on from there.
    fn listed(self, mut parsed: Parsed, folders_are_shallow: bool) -> Listed {
        let is_over = |object: &ObjectMeta| !self.until.is_empty() && object.key > self.until;
        if parsed.objects.iter().any(is_over) {
            parsed.objects.retain(|object| !is_over(object));
            parsed.next = None;
        }
        let folders = parsed.folders.into_iter();
        let folders = folders.map(|folder| Self { is_shallow: folders_are_shallow, folder, ..Self::default() });
        let mut next: Vec<_> = folders.map(Self::into_token).collect();
        next.extend(parsed.next.map(|token| Self { token: Some(token), ..self }.into_token()));
        Listed { objects: parsed.objects, untold: parsed.untold, next, passed_over: parsed.passed_over }
    }
}

impl<P: Protocol> Remote<P> {
    pub(super) async fn listed(&self, prefix: &str, token: Option<&str>) -> Result<Listed> {
        let by_folder = self.protocol.lists_by_folder();
        if let Some(token) = token {
            let cursor = Cursor::from_token(token);
            let parsed = self.parsed(&cursor.asked()).await?;
            return Ok(cursor.listed(parsed, by_folder));
        }
        let shallow = Cursor { is_shallow: true, folder: request::folder(prefix), ..Cursor::default() };
        let parsed = self.parsed(&shallow.asked()).await?;
        if by_folder || parsed.next.is_none() && parsed.folders.len() <= MOST_FOLDERS {
            return Ok(shallow.listed(parsed, by_folder));
        }
        let mut deep = Cursor { is_shallow: false, ..shallow };
        let parsed = self.parsed(&deep.asked()).await?;
        let between = match parsed.next {
            Some(_) if self.protocol.can_begin_after() => self.divide(&deep.folder, &parsed.objects).await?,
            _ => Vec::new(),
        };
        let ends = between.iter().skip(1).cloned().chain([String::new()]);
        let parts = between.iter().zip(ends).map(|(after, until)| {
            Cursor { folder: deep.folder.clone(), after: after.clone(), until, ..Cursor::default() }.into_token()
        });
        let parts: Vec<_> = parts.collect();
        deep.until = between.first().cloned().unwrap_or_default();
        let mut listed = deep.listed(parsed, false);
        listed.next.extend(parts);
        Ok(listed)
    }

    /// Keys, in order, that divide what comes after a page.
    async fn divide(&self, folder: &str, page: &[ObjectMeta]) -> Result<Vec<String>> {
        let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok(Vec::new()) };
        let candidates = candidates(&first.key, &last.key);
        let probes = stream::iter(candidates).map(|after| async move {
            let asked = Asked { folder, after: Some(&after), max: Some(1), ..Asked::default() };
            let found = self.parsed(&asked).await?.objects.into_iter().next();
            Ok::<_, crate::Error>(found.map(|found| (found.key, after)))
        });
        let found: Vec<Option<(String, String)>> = probes.buffered(PROBES_AT_ONCE).try_collect().await?;
        let mut found: Vec<_> = found.into_iter().flatten().collect();
        // Several candidates before one and the same key divide nothing: the last of them will do.
        found.sort_unstable();
        found.reverse();
        found.dedup_by(|a, b| a.0 == b.0);
        let mut between: Vec<_> = found.into_iter().map(|(_, after)| after).collect();
        between.sort_unstable();
        Ok(between)
    }
}

/// Names that may lie between keys ahead of a page from `first` to `last`: its last key with one digit counted up and the rest
/// cut off, for the digits that this page has hardly begun to count.
fn candidates(first: &str, last: &str) -> Vec<String> {
    let common = first.bytes().zip(last.bytes()).take_while(|(a, b)| a == b).count();
    let start = last.rfind('/').map_or(0, |slash| slash + 1);
    let name = &last.as_bytes()[start..];
    let digits_of = |from: usize| {
        let run = name[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let hashed = name[from..].iter().take_while(|byte| DIGITS.contains(byte)).count();
        // A number between other characters, or a hash.
        if hashed >= 8 && hashed > run { (hashed, 16) } else { (run, 10) }
    };
    // Digits as far as this page has gone, from the run that it is in.
    let at = common.saturating_sub(start).min(name.len().saturating_sub(1));
    let run_start = (0..=at).find(|&from| digits_of(from).0 > at - from).unwrap_or(at);
    let (len, base) = digits_of(run_start);
    let positions = run_start..(run_start + len).min(at + 1);
    let counted = positions.flat_map(|position| {
        let digit = name[position];
        let (folder, name) = (&last[..start], &last[start..]);
        let higher = DIGITS[..base].iter().filter(move |&&other| other > digit);
        higher.map(move |&other| format!("{folder}{}{}", &name[..position], char::from(other)))
    });
    counted.take(MOST_PROBES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_that_a_page_has_hardly_begun_to_count_divide_what_is_ahead() {
        let numbers = candidates("run/key-000001.pt", "run/key-001000.pt");
        assert_eq!(numbers.len(), 9 + 9 + 8);
        for wanted in ["run/key-1", "run/key-9", "run/key-01", "run/key-002", "run/key-009"] {
            assert!(numbers.iter().any(|candidate| candidate == wanted), "{wanted} in {numbers:?}");
        }
        let hashes = candidates("0001fe98aa.pt", "000f11bbcc.pt");
        assert!(hashes.contains(&"f".to_owned()) && hashes.contains(&"01".to_owned()), "{hashes:?}");
        assert!(hashes.iter().all(|candidate| candidate.as_str() > "000f11bbcc.pt"));
        assert_eq!(candidates("apple.pt", "banana.pt"), candidates("apple.pt", "banana.pt"));
        assert!(candidates("", "").is_empty());
    }

    #[test]
    fn a_cursor_survives_being_a_token() {
        let whole = Cursor {
            is_shallow: true,
            folder: "a/".to_owned(),
            after: "a/1".to_owned(),
            until: "a/2".to_owned(),
            token: Some("x\0y".to_owned()),
        };
        let token = Cursor {
            token: whole.token.clone(),
            folder: whole.folder.clone(),
            after: whole.after.clone(),
            until: whole.until.clone(),
            is_shallow: true,
        }
        .into_token();
        assert_eq!(Cursor::from_token(&token), whole);
        assert_eq!(Cursor::from_token(&Cursor::default().into_token()), Cursor::default());
    }
}
