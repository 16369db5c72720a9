//! Where clients come in: the port, which can be closed and opened again, and the connections.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use futures_util::future::{Either, select};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::State;
use super::exchange;
use super::wire::{Control, Wire};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;
/// How long to wait for connections to be gone, in milliseconds.
const PATIENCE_MS: u32 = 2000;

#[derive(Debug)]
pub(super) struct Gate {
    runtime: Handle,
    address: SocketAddr,
    state: Arc<State>,
    counts: Arc<Counts>,
    port: Mutex<Port>,
}

#[derive(Debug, Default)]
struct Counts {
    accepted: AtomicU64,
    alive: AtomicU64,
}

#[derive(Debug)]
enum Port {
    /// Dropping the sender ends the listener and its connections; the receiver tells that the listener is gone.
    Open(watch::Sender<()>, mpsc::Receiver<()>),
    /// Bound but not listening: clients are refused, and nobody else gets the port.
    Closed(Option<TcpSocket>),
}

impl Gate {
    pub(super) fn open(runtime: &Handle, state: Arc<State>) -> io::Result<Self> {
        let socket = bound((Ipv4Addr::LOCALHOST, 0).into())?;
        let address = socket.local_addr()?;
        let port = Mutex::new(Port::Closed(Some(socket)));
        let gate = Self { runtime: runtime.clone(), address, state, counts: Arc::default(), port };
        gate.revive()?;
        Ok(gate)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn accepted(&self) -> u64 {
        self.counts.accepted.load(Ordering::SeqCst)
    }

    pub(super) fn alive(&self) -> u64 {
        self.counts.alive.load(Ordering::SeqCst)
    }

    pub(super) fn kill(&self) -> io::Result<()> {
        let mut port = self.port.lock();
        let Port::Open(..) = &*port else { return Ok(()) };
        if let Port::Open(life, gone) = std::mem::replace(&mut *port, Port::Closed(None)) {
            drop(life);
            let _ = gone.recv(); // it fails once the listener's task has dropped its end
        }
        for _ in 0..PATIENCE_MS {
            if self.alive() == 0 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        *port = Port::Closed(Some(bound(self.address)?));
        Ok(())
    }

    pub(super) fn revive(&self) -> io::Result<()> {
        let mut port = self.port.lock();
        let Port::Closed(socket) = &mut *port else { return Ok(()) };
        let _context = self.runtime.enter();
        let socket = socket.take().map_or_else(|| bound(self.address), Ok)?;
        let listener = socket.listen(BACKLOG)?;
        let (life, living) = watch::channel(());
        let (going, gone) = mpsc::channel();
        let (state, counts) = (self.state.clone(), self.counts.clone());
        self.runtime.spawn(async move {
            accept(listener, living, &state, &counts).await;
            drop(going);
        });
        *port = Port::Open(life, gone);
        Ok(())
    }
}

fn bound(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?; // connections that ended a moment ago keep the port otherwise
    socket.bind(address)?;
    Ok(socket)
}

async fn accept(listener: TcpListener, living: watch::Receiver<()>, state: &Arc<State>, counts: &Arc<Counts>) {
    let mut life = living.clone();
    let mut killed = pin!(life.changed());
    loop {
        let accepted = match select(pin!(listener.accept()), &mut killed).await {
            Either::Left((accepted, _)) => accepted,
            Either::Right(_) => return,
        };
        if let Ok((stream, _)) = accepted {
            counts.accepted.fetch_add(1, Ordering::SeqCst);
            counts.alive.fetch_add(1, Ordering::SeqCst);
            let counted = Alive(counts.clone());
            tokio::spawn(attend(stream, living.clone(), state.clone(), counted));
        }
    }
}

/// Serves one connection until it ends, or the server is killed.
async fn attend(stream: TcpStream, mut living: watch::Receiver<()>, state: Arc<State>, _counted: Alive) {
    // Without this, small answers wait for an acknowledgement that is held back.
    let _ = stream.set_nodelay(true);
    let control = Arc::new(Control::default());
    let wire = Wire { stream, control: control.clone() };
    let service = service_fn(|request| exchange::answer(state.clone(), control.clone(), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(wire), service);
    // A client that leaves early is no failure of ours.
    if let Either::Right(_) = select(connection, pin!(living.changed())).await {
        control.reset();
    }
}

/// Counts a connection until it is gone.
struct Alive(Arc<Counts>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::SeqCst);
    }
}
