//! A connection's first words: whether the other end talks, or says why it does not.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::explain;
use crate::env::net::Stream;

/// Begins a TLS record that carries an alert. As the first byte of HTTP/2 it would announce a frame longer
/// than any that may come first, and no text begins with it.
const ALERT_RECORD: u8 = 0x15;

/// Becomes the reason when one end refuses a connection before anything was taken from it.
///
/// With TLS 1.3 the end that connects is done before the other has seen its certificate: the refusal
/// arrives in place of the first answer, when requests may have been written already.
#[derive(Clone, Debug, Default)]
pub struct Verdict(Arc<OnceLock<String>>);

impl Verdict {
    /// Why an end refused, if one did. Whatever was sent was then not acted on.
    pub fn refused(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    pub(super) fn set(&self, why: &str) -> io::Error {
        // Only the first counts.
        self.0.set(why.to_owned()).ok();
        io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned())
    }
}

/// Watches how a connection begins that this end has opened in the clear. `remedy` says how it would speak
/// TLS.
pub fn attentive(stream: Box<dyn Stream>, verdict: Verdict, remedy: &'static str) -> Box<dyn Stream> {
    Box::new(Attentive { stream, verdict, heard: false, in_the_clear: Some(remedy) })
}

/// The same for one whose handshake is done.
pub(super) fn attentive_tls(stream: impl Stream, verdict: Verdict) -> Box<dyn Stream> {
    Box::new(Attentive { stream, verdict, heard: false, in_the_clear: None })
}

struct Attentive<S> {
    stream: S,
    verdict: Verdict,
    heard: bool,
    in_the_clear: Option<&'static str>,
}

impl<S: Stream> AsyncRead for Attentive<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.heard {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let before = buf.filled().len();
        match ready!(Pin::new(&mut self.stream).poll_read(cx, buf)) {
            Ok(()) => {
                let first = buf.filled().get(before).copied();
                self.heard = first.is_some();
                if let Some(remedy) = self.in_the_clear.filter(|_| first == Some(ALERT_RECORD)) {
                    let why = format!("it speaks TLS and this end does not: {remedy}");
                    return Poll::Ready(Err(self.verdict.set(&why)));
                }
                Poll::Ready(Ok(()))
            }
            Err(error) => Poll::Ready(Err(match explain::alert(&error) {
                Some(why) => self.verdict.set(&why),
                None => error,
            })),
        }
    }
}

impl<S: Stream> AsyncWrite for Attentive<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
