//! `headwater inspect`.

use std::io::Write;

use clap::Args;
use headwater::config::ByteSize;
use headwater::engine::{Engine, uninterrupted};
use headwater::source::ReadRequest;
use headwater::value::{Element, Tensor, Value};
use headwater::{ErrorKind, Result, object};
use serde_json::{Value as Json, json};

use crate::Failure;
use crate::place::Place;

/// Characters of a string that are shown.
const SHOWN_TEXT: usize = 80;

/// Decode one object and show what is in it: names, types, shapes, first values
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  headwater inspect ./latent_0001.pt\n  headwater inspect s3://bucket/run/latents/0001.pt.zst --values 8"
)]
pub(crate) struct Inspect {
    /// Path or URI of the object
    uri: String,
    /// Values of each tensor to show
    #[arg(long, value_name = "N", default_value_t = 4)]
    values: usize,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

impl Inspect {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<(), Failure> {
        let (uri, stored, value) = self.read()?;
        if self.json {
            let document =
                json!({"uri": uri, "bytes": stored, "tensor_bytes": value.tensor_bytes(), "value": self.json(&value)});
            serde_json::to_writer_pretty(&mut *out, &document)?;
            return Ok(writeln!(out)?);
        }
        writeln!(out, "{uri}: {} stored, {} of tensors", ByteSize(stored), ByteSize(value.tensor_bytes() as u64))?;
        Ok(self.tree(out, "", &value, 0)?)
    }

    fn read(&self) -> Result<(String, u64, Value)> {
        let (source, key) = self.place.open_parent(&self.uri)?;
        let engine = Engine::current()?;
        let read = async move {
            let compressed = format!("{key}.zst");
            let read = async |key: &str| source.read(&ReadRequest::whole(key), engine.buffers()).await;
            match read(&key).await {
                // A request for `x.pt` finds `x.pt.zst`.
                Err(error) if error.kind() == ErrorKind::NotFound => match read(&compressed).await {
                    Ok(object) => Ok((source.uri_of(&compressed), object.bytes)),
                    Err(_) => Err(error),
                },
                object => object.map(|object| (source.uri_of(&key), object.bytes)),
            }
        };
        let (uri, bytes) = engine.block_on("reading the object", read, uninterrupted())??;
        let value = object::decode(&uri, &bytes)?;
        Ok((uri, bytes.len() as u64, value))
    }

    fn tree(&self, out: &mut impl Write, name: &str, value: &Value, depth: usize) -> std::io::Result<()> {
        let indent = "  ".repeat(depth);
        let name = if name.is_empty() { String::new() } else { format!("{name}: ") };
        let children: Vec<(String, &Value)> = match value {
            Value::Dict(dict) => dict.items.iter().map(|(key, value)| (self.line(key), value)).collect(),
            Value::List(items) | Value::Tuple(items) | Value::Set(items) => {
                items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect()
            }
            _ => Vec::new(),
        };
        writeln!(out, "{indent}{name}{}", self.line(value))?;
        children.iter().try_for_each(|(name, child)| self.tree(out, name, child, depth + 1))
    }

    /// One value on one line; containers say only what they are.
    fn line(&self, value: &Value) -> String {
        match value {
            Value::None => "None".to_owned(),
            Value::Bool(it) => it.to_string(),
            Value::Int(it) => it.to_string(),
            Value::BigInt(it) => format!("int of {} bits", 8 * it.len()),
            Value::Float(it) => format!("{it:?}"),
            Value::Complex(real, imaginary) => Element::Complex(*real, *imaginary).to_string(),
            Value::Str(it) => format!("{:?}", shortened(it)),
            Value::Bytes(it) => format!("bytes[{}]", it.len()),
            Value::List(it) => format!("list of {}", it.len()),
            Value::Tuple(it) => format!("tuple of {}", it.len()),
            Value::Set(it) => format!("set of {}", it.len()),
            Value::Dict(it) => format!("{} of {}", if it.ordered { "OrderedDict" } else { "dict" }, it.items.len()),
            Value::Size(it) => format!("Size{it:?}"),
            Value::DType(it) => it.to_string(),
            Value::Device(it) => format!("device {it}"),
            Value::Tensor(it) => self.tensor(it),
        }
    }

    fn tensor(&self, tensor: &Tensor) -> String {
        let strides = if tensor.is_contiguous() { String::new() } else { format!(" strides {:?}", tensor.strides()) };
        let shown = tensor.first_elements(self.values);
        let more = if shown.len() < tensor.numel() { " …" } else { "" };
        let values: Vec<_> = shown.iter().map(ToString::to_string).collect();
        format!(
            "{}{:?}{strides} {}  {}{more}",
            tensor.dtype(),
            tensor.shape(),
            ByteSize(tensor.nbytes() as u64),
            values.join(" ")
        )
    }

    fn json(&self, value: &Value) -> Json {
        let list = |items: &[Value]| items.iter().map(|item| self.json(item)).collect::<Vec<_>>();
        match value {
            Value::None => Json::Null,
            Value::Bool(it) => json!(it),
            Value::Int(it) => json!(it),
            Value::Float(it) if it.is_finite() => json!(it),
            Value::Str(it) => json!(shortened(it)),
            Value::List(items) => json!({"type": "list", "items": list(items)}),
            Value::Tuple(items) => json!({"type": "tuple", "items": list(items)}),
            Value::Set(items) => json!({"type": "set", "items": list(items)}),
            Value::Dict(dict) => {
                let pair = |(key, value): &(Value, Value)| json!({"key": self.json(key), "value": self.json(value)});
                json!({"type": "dict", "items": dict.items.iter().map(pair).collect::<Vec<_>>()})
            }
            Value::Tensor(it) => json!({
                "type": "tensor",
                "dtype": it.dtype().name(),
                "shape": it.shape(),
                "strides": it.strides(),
                "bytes": it.nbytes(),
                "values": it.first_elements(self.values).iter().map(ToString::to_string).collect::<Vec<_>>(),
            }),
            other => json!({"type": "other", "text": self.line(other)}),
        }
    }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(SHOWN_TEXT) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
