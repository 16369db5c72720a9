//! Words of servers, and words for servers.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use quick_xml::events::Event;

use crate::source::options::without_userinfo;

/// Of an answer that says nothing in a form we know.
const SHOWN_CHARACTERS: usize = 300;
/// Levels of an XML document; listings have five.
const DEEPEST: usize = 16;
/// Everything but what RFC 3986 calls unreserved: the form that signatures are computed over.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');
/// The same, and slashes.
const PATH: &AsciiSet = &COMPONENT.remove(b'/');

/// A key in the path of a URL.
pub(crate) fn path(key: &str) -> String {
    utf8_percent_encode(key, PATH).to_string()
}

/// A text in a query or in one component of a path.
pub(crate) fn component(text: &str) -> String {
    utf8_percent_encode(text, COMPONENT).to_string()
}

/// A query of pairs, sorted as they are given.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}={}", component(value))).collect();
    pairs.join("&")
}

/// Code and message of an XML error document, as S3 and Azure send them.
pub(crate) fn xml_reason(body: &[u8]) -> (Option<String>, Option<String>) {
    let text = String::from_utf8_lossy(body);
    let within = |tag: &str| {
        let (_, rest) = text.split_once(&format!("<{tag}>"))?;
        rest.split_once(&format!("</{tag}>")).map(|(words, _)| shortened(words))
    };
    (within("Code"), within("Message"))
}

/// The beginning of what may be a whole web page, without the user and password that a URL in it may have.
pub(crate) fn shortened(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().map(without_userinfo).collect();
    let text = words.join(" ");
    match text.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// What to say of an answer that should have been a listing.
pub(crate) fn no_listing(body: &[u8]) -> String {
    let beginning = String::from_utf8_lossy(&body[..body.len().min(SHOWN_CHARACTERS)]).trim().to_owned();
    format!("the answer is no listing, it begins with `{}`", beginning.chars().take(100).collect::<String>())
}

/// Walks an XML document: `visit` is called with the names of the open elements and, as an element closes, its own text.
///
/// # Errors
/// Where the document is not well-formed, or its root is another, or it is not whole.
pub(crate) fn walk_xml(body: &[u8], root: &str, mut visit: impl FnMut(&[String], &str)) -> Result<(), String> {
    let wrong = || no_listing(body);
    let text = std::str::from_utf8(body).map_err(|_| wrong())?;
    let mut reader = quick_xml::Reader::from_str(text.trim_start_matches('\u{feff}').trim());
    // Names are kept for reuse: a page has thousands of elements, and few levels.
    let (mut open, mut depth): (Vec<String>, usize) = (Vec::new(), 0);
    let mut words = String::new();
    let mut is_whole = false;
    loop {
        match reader.read_event().map_err(|_| wrong())? {
            Event::Start(tag) => {
                let name = tag.local_name();
                let name = name.as_ref();
                if depth == 0 && (name != root || is_whole) {
                    return Err(wrong());
                }
                match open.get_mut(depth) {
                    Some(kept) => name.clone_into(kept),
                    None => open.push(name.to_owned()),
                }
                depth += 1;
                if depth > DEEPEST {
                    return Err(wrong());
                }
                words.clear();
            }
            Event::Empty(tag) => {
                words.clear();
                is_whole |= depth == 0 && tag.local_name().as_ref() == root;
            }
            Event::Text(part) => words.push_str(&part),
            Event::CData(part) => words.push_str(&part),
            Event::GeneralRef(name) => match name.resolve_char_ref().map_err(|_| wrong())? {
                Some(character) => words.push(character),
                None => words.push_str(quick_xml::escape::resolve_predefined_entity(&name).ok_or_else(wrong)?),
            },
            Event::End(_) => {
                visit(&open[..depth], &words);
                words.clear();
                depth -= 1;
                is_whole |= depth == 0;
            }
            Event::Eof => break,
            _ => {}
        }
    }
    if is_whole && depth == 0 { Ok(()) } else { Err(wrong()) }
}
