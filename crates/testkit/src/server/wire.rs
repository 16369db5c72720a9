//! A connection whose end can be chosen, and which tells when all that was written has left.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What an answer may do to the connection it is sent on.
#[derive(Debug, Default)]
pub(super) struct Control {
    reset: AtomicBool,
    flushes: AtomicU64,
    waiting: AtomicWaker,
}

impl Control {
    /// Ends the connection with a reset instead of a goodbye, when it is dropped.
    pub(super) fn reset(&self) {
        self.reset.store(true, Ordering::SeqCst);
    }

    /// Waits until all that was written before the first call has been handed to the network.
    pub(super) fn poll_flushed(&self, since: &mut Option<u64>, context: &Context<'_>) -> Poll<()> {
        self.waiting.register(context.waker());
        let flushes = self.flushes.load(Ordering::SeqCst);
        if flushes > *since.get_or_insert(flushes) { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A connection under control.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    pub(super) control: Arc<Control>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        if self.control.reset.load(Ordering::SeqCst) {
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Called when nothing is left to write.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.flushes.fetch_add(1, Ordering::SeqCst);
        self.control.waiting.wake();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.control.reset.load(Ordering::SeqCst) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
