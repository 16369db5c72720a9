//! Coders of a plane's bytes: Huffman codes alone, or with repeats of what came before.
//!
//! Both are Zstandard frames, so that one decoder reads either. Finding repeats costs most of the time of compressing and of
//! decompressing, and in planes of floats there are none; told to look for none, Zstandard is an entropy coder of four streams.

use std::cell::RefCell;

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, ParamSwitch, Strategy};

use crate::error::{Error, ErrorKind, Result};

/// Parameters under which the search for repeats gives up at once: the longest step between tries, the shortest table.
const NO_REPEATS: &[CParameter] = &[
    CParameter::Strategy(Strategy::ZSTD_fast),
    CParameter::WindowLog(17),
    CParameter::HashLog(8),
    CParameter::MinMatch(7),
    CParameter::TargetLength(1 << 17),
    CParameter::LiteralCompressionMode(ParamSwitch::Enable),
];

/// How bytes are coded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Coder {
    /// By their frequencies.
    #[default]
    Huffman,
    /// By repeats too.
    Repeats,
}

/// Codes bytes; the frame is appended to `out`.
pub(super) fn encode(coder: Coder, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    CODERS.with_borrow_mut(|coders| {
        let Coders { huffman, repeats, frame, .. } = coders;
        let context = match coder {
            Coder::Huffman => huffman.get_or_insert_with(|| context(NO_REPEATS)),
            Coder::Repeats => repeats.get_or_insert_with(|| context(&[CParameter::CompressionLevel(1)])),
        };
        frame.clear();
        frame.reserve(zstd_safe::compress_bound(bytes.len()));
        context.compress2(frame, bytes).map_err(|code| failed("compress", code))?;
        out.extend_from_slice(frame);
        Ok(())
    })
}

/// Decodes one frame into all of `out`.
///
/// # Errors
/// `Corrupt` when the frame is damaged or of another length.
pub(super) fn decode(frame: &[u8], out: &mut [u8]) -> Result<()> {
    CODERS.with_borrow_mut(|coders| {
        let wanted = out.len();
        let context = coders.decoder.get_or_insert_with(DCtx::create);
        let written = context.decompress(out, frame).map_err(|code| failed("decompress", code))?;
        if written == wanted {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, "decompress", "tensor block")
            .because(format_args!("it has {written} bytes where {wanted} should be")))
    })
}

/// Contexts are several hundred kilobytes, so each thread keeps its own.
#[derive(Default)]
struct Coders {
    huffman: Option<CCtx<'static>>,
    repeats: Option<CCtx<'static>>,
    decoder: Option<DCtx<'static>>,
    frame: Vec<u8>,
}

thread_local! {
    static CODERS: RefCell<Coders> = RefCell::default();
}

fn context(parameters: &[CParameter]) -> CCtx<'static> {
    let mut context = CCtx::create();
    for &parameter in parameters {
        // Any of them may be unknown to another version: what comes out is a frame all the same.
        let _ = context.set_parameter(parameter);
    }
    context
}

fn failed(op: &'static str, code: usize) -> Error {
    Error::new(ErrorKind::Corrupt, op, "tensor block").because(zstd_safe::get_error_name(code))
}
