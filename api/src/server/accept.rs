//! Connections come in; each gets a task, or 503.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::connection::{self, Context};
use super::socket::{ApiSocket, Kind, SocketFile};
use super::{Limits, overload};
use crate::handler::Handler;

/// Where connections come in.
pub(super) struct Acceptor {
    source: Source,
    /// Removes the socket when the acceptor ends.
    file: Option<SocketFile>,
    handler: Arc<dyn Handler>,
    limits: Limits,
}

enum Source {
    Listener(UnixListener),
    /// The caller's one connection.
    Connection(UnixStream),
}

impl Acceptor {
    /// To be called inside a runtime.
    pub(super) fn new(
        socket: ApiSocket,
        handler: Arc<dyn Handler>,
        limits: Limits,
    ) -> io::Result<Self> {
        let (kind, file) = socket.into_parts();
        let source = match kind {
            Kind::Listener(listener) => {
                listener.set_nonblocking(true)?;
                Source::Listener(UnixListener::from_std(listener)?)
            }
            Kind::Connection(stream) => {
                stream.set_nonblocking(true)?;
                Source::Connection(UnixStream::from_std(stream)?)
            }
        };
        Ok(Self {
            source,
            file,
            handler,
            limits,
        })
    }

    /// Serves until `stopped` turns true, and a little longer.
    pub(super) async fn run(self, stopped: watch::Receiver<bool>) {
        let context = Rc::new(Context {
            handler: self.handler,
            limits: self.limits,
        });
        let mut connections = JoinSet::new();
        match self.source {
            Source::Listener(listener) => {
                listen(listener, &context, &mut connections, stopped).await;
            }
            Source::Connection(stream) => {
                let mut end = stopped.clone();
                connections.spawn_local(connection::serve(stream, Rc::clone(&context), stopped));
                // An error here is a handle that is gone: the end as well.
                drop(end.wait_for(|stopped| *stopped).await);
            }
        }
        // The socket is gone before the last answer is: who waits for the
        // process to end may start the next one then.
        drop(self.file);
        let farewell = async { while connections.join_next().await.is_some() {} };
        if timeout(context.limits.farewell, farewell).await.is_err() {
            tracing::debug!("API requests were still unanswered at the end");
        }
    }
}

async fn listen(
    listener: UnixListener,
    context: &Rc<Context>,
    connections: &mut JoinSet<()>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut turned_away = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        while turned_away.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) if connections.len() < context.limits.connections => {
                connections.spawn_local(connection::serve(
                    stream,
                    Rc::clone(context),
                    stopped.clone(),
                ));
            }
            Ok((stream, _)) if turned_away.len() < context.limits.connections => {
                turned_away.spawn_local(overload::turn_away(stream, context.limits.connections));
            }
            // As many as we serve are being turned away: just close.
            Ok(_) => (),
            Err(error) => {
                // Too many open files, for example: that may pass.
                tracing::warn!(%error, "cannot accept an API connection");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
