//! Plain HTTP, as a web server gives out a folder: files with their tags and times, and pages that list folders.

use std::fmt::Write;

use chrono::DateTime;
use hyper::header::{ETAG, IF_MATCH, IF_UNMODIFIED_SINCE, RANGE};
use hyper::{Method, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use super::State;
use super::answer::{self, Answer, escaped, text};
use super::counters::Class;
use super::object::Object;
use super::page::{Entry, page};
use super::protocol::{Asked, Call, Problem, Protocol};
use super::store::Store;

pub(super) struct Plain;

/// The folder that holds everything.
pub(super) const ROOT: &str = "/plain/";
/// What nginx escapes in links.
const IN_LINKS: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%').add(b'#').add(b'?').add(b'<').add(b'>').add(b':');
/// The column in which nginx's dates begin.
const NAME_COLUMN: usize = 50;

impl Protocol for Plain {
    fn owns(&self, path: &str) -> bool {
        path.starts_with(ROOT)
    }

    fn call<'a>(&self, store: &Store, asked: &'a Asked<'a>) -> Call<'a> {
        let key = asked.path.strip_prefix(ROOT).unwrap_or_default();
        match asked.parts.method {
            Method::GET | Method::HEAD if key.is_empty() || key.ends_with('/') => Call::of(Class::List, key),
            ref method => Call::about(method, key, store.get(key), asked.header(RANGE)),
        }
    }

    fn answer(&self, state: &State, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        match asked.parts.method {
            Method::GET | Method::HEAD if call.class == Class::List => self.index(state, asked, call.key),
            Method::GET | Method::HEAD => self.read(asked, call),
            Method::PUT => {
                let object = state.store.put(call.key, asked.body.clone());
                answer::with(answer::empty(StatusCode::CREATED), ETAG, object.tag.clone())
            }
            Method::DELETE if state.store.remove(call.key) => answer::empty(StatusCode::NO_CONTENT),
            Method::DELETE => self.failure(asked, Problem::Missing),
            _ => self.failure(asked, Problem::BadMethod),
        }
    }

    fn failure(&self, _: &Asked<'_>, problem: Problem) -> Answer {
        let status = match problem {
            Problem::Missing => StatusCode::NOT_FOUND,
            Problem::Denied => StatusCode::FORBIDDEN,
            Problem::Expired => StatusCode::UNAUTHORIZED,
            Problem::Changed => StatusCode::PRECONDITION_FAILED,
            Problem::BadRange => StatusCode::RANGE_NOT_SATISFIABLE,
            Problem::BadMethod => StatusCode::METHOD_NOT_ALLOWED,
            Problem::Status(status) => status,
        };
        text(status, "text/html", format!("<html><head><title>{status}</title></head><h1>{status}</h1></html>\n"))
    }
}

impl Plain {
    fn read(&self, asked: &Asked<'_>, call: &Call<'_>) -> Answer {
        let Some(object) = &call.object else { return self.failure(asked, Problem::Missing) };
        if !answer::matches(asked.header(IF_MATCH), object.tag()) || is_newer(object, asked) {
            return self.failure(asked, Problem::Changed);
        }
        let mut part = self.part(asked, call, object);
        if part.status().is_success() {
            part.headers_mut().insert(ETAG, object.tag.clone());
        }
        part
    }

    fn index(&self, state: &State, asked: &Asked<'_>, folder: &str) -> Answer {
        let objects = state.store.objects();
        let page = page(&objects, folder, "", true, usize::MAX);
        if page.entries.is_empty() && !folder.is_empty() {
            return self.failure(asked, Problem::Missing);
        }
        let title = escaped(asked.path);
        let mut html = format!(
            "<html>\r\n<head><title>Index of {title}</title></head>\r\n<body>\r\n<h1>Index of {title}</h1><hr><pre>\
             <a href=\"../\">../</a>\r\n"
        );
        for entry in &page.entries {
            let name = &entry.name()[folder.len()..];
            let (link, shown) = (utf8_percent_encode(name, IN_LINKS), escaped(name));
            let gap = " ".repeat(NAME_COLUMN.saturating_sub(name.chars().count()));
            let _ = match entry {
                Entry::Folder(_) => {
                    write!(html, "<a href=\"{link}\">{shown}</a>{gap} 01-Jan-2026 00:00 {:>19}\r\n", "-")
                }
                Entry::Object(_, object) => {
                    let (time, size) = (object.stored_at().format("%d-%b-%Y %H:%M"), object.bytes.len());
                    write!(html, "<a href=\"{link}\">{shown}</a>{gap} {time} {size:>19}\r\n")
                }
            };
        }
        html.push_str("</pre><hr></body>\r\n</html>\r\n");
        text(StatusCode::OK, "text/html", html)
    }
}

/// Whether the object was stored after the time that the request still allows.
fn is_newer(object: &Object, asked: &Asked<'_>) -> bool {
    let allowed = asked.header(IF_UNMODIFIED_SINCE).and_then(|text| DateTime::parse_from_rfc2822(text).ok());
    allowed.is_some_and(|time| object.stored_at() > time)
}
