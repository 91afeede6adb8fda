//! hyper + serde + a hand-written group commit: all records that wait are written with one XADD (fields `r`, `n`, Inlet's
//! layout of an entry), and their requests answered 202 after its reply.
//!
//! Two threads, each with its own event loop, its share of the connections (dealt out in turn) and its own connection to
//! the store, so that nothing is locked or shared on the way of a record. RESP is written by hand.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::rc::Rc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{header, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{mpsc, oneshot, Notify};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const THREADS: usize = 2;
const BODY_BYTES_MAX: usize = 8 << 20;
/// Bytes of records after which an entry is closed, as Inlet's default `entry_bytes_max`.
const ENTRY_BYTES_MAX: usize = 1 << 20;

#[derive(Deserialize)]
#[allow(dead_code)]
struct Payload<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    timestamp: Cow<'a, str>,
    #[serde(borrow)]
    service: Cow<'a, str>,
    #[serde(borrow)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    metadata: HashMap<Text<'a>, Text<'a>>,
}

/// serde borrows a `Cow` only where it is a field; in a map it takes this wrapper.
#[derive(Deserialize, PartialEq, Eq, Hash)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn valid(line: &[u8]) -> bool {
    serde_json::from_slice::<Payload>(line).is_ok_and(|p| !p.event_id.is_empty() && !p.service.is_empty())
}

/// The open batch: `records` holds the lines, each ended by a newline but the last; `cuts` where entries end.
#[derive(Default)]
struct Batch {
    records: Vec<u8>,
    count: usize,
    entries: Vec<(usize, usize)>,
    entry_start: usize,
    entry_count: usize,
    waiting: Vec<oneshot::Sender<bool>>,
}

impl Batch {
    fn push(&mut self, line: &[u8]) {
        let length = self.records.len() - self.entry_start;
        if self.entry_count > 0 && length + line.len() > ENTRY_BYTES_MAX {
            self.close_entry();
        }
        self.records.extend_from_slice(line);
        self.records.push(b'\n');
        self.count += 1;
        self.entry_count += 1;
    }

    fn close_entry(&mut self) {
        self.entries.push((self.records.len(), self.entry_count));
        self.entry_start = self.records.len();
        self.entry_count = 0;
    }
}

struct Sink {
    open: RefCell<Batch>,
    ready: Notify,
}

impl Sink {
    /// Writes batch after batch; while one is under way, the next one fills.
    async fn commit_forever(&self, socket: UnixStream) {
        let (read, mut write) = socket.into_split();
        let mut replies = BufReader::new(read);
        let (mut command, mut reply) = (Vec::new(), Vec::new());
        loop {
            self.ready.notified().await;
            // Every request that is readable in this turn of the loop gets into the batch.
            tokio::task::yield_now().await;
            let mut batch = self.open.take();
            if batch.count == 0 {
                continue;
            }
            if batch.entry_count > 0 {
                batch.close_entry();
            }
            command.clear();
            let mut start = 0;
            for &(stop, count) in &batch.entries {
                encode(&mut command, &batch.records[start..stop - 1], count);
                start = stop;
            }
            let mut stored = write.write_all(&command).await.is_ok();
            for _ in 0..batch.entries.len() {
                // "$<length>\r\n<entry ID>\r\n", or "-<error>\r\n"
                reply.clear();
                let read = replies.read_until(b'\n', &mut reply).await;
                stored &= matches!(read, Ok(n) if n > 0) && reply[0] == b'$';
                if stored {
                    stored &= matches!(replies.read_until(b'\n', &mut reply).await, Ok(n) if n > 0);
                }
            }
            for waiting in batch.waiting {
                let _ = waiting.send(stored);
            }
        }
    }
}

fn encode(command: &mut Vec<u8>, records: &[u8], count: usize) {
    let count = count.to_string();
    command.extend_from_slice(b"*7\r\n$4\r\nXADD\r\n$4\r\nlogs\r\n$1\r\n*\r\n$1\r\nr\r\n$");
    command.extend_from_slice(records.len().to_string().as_bytes());
    command.extend_from_slice(b"\r\n");
    command.extend_from_slice(records);
    command.extend_from_slice(b"\r\n$1\r\nn\r\n$");
    command.extend_from_slice(count.len().to_string().as_bytes());
    command.extend_from_slice(b"\r\n");
    command.extend_from_slice(count.as_bytes());
    command.extend_from_slice(b"\r\n");
}

fn answer(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    response
}

/// Check the body and put its records into the open batch; None where one is not valid.
fn append(sink: &Sink, bulk: bool, body: &[u8]) -> Option<oneshot::Receiver<bool>> {
    let (sender, receiver) = oneshot::channel();
    if !bulk {
        if !valid(body) || memchr::memchr(b'\n', body).is_some() {
            return None;
        }
        let mut batch = sink.open.borrow_mut();
        batch.push(body);
        batch.waiting.push(sender);
    } else {
        let lines = body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
        if !lines.clone().all(valid) {
            return None;
        }
        let mut batch = sink.open.borrow_mut();
        lines.for_each(|line| batch.push(line));
        batch.waiting.push(sender);
    }
    sink.ready.notify_one();
    Some(receiver)
}

async fn ingest(sink: Rc<Sink>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.uri().path() != "/ingest" {
        return Ok(answer(StatusCode::NOT_FOUND, ""));
    }
    if request.method() != Method::POST {
        return Ok(answer(StatusCode::METHOD_NOT_ALLOWED, ""));
    }
    let bulk = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/x-ndjson"));
    let Ok(body) = http_body_util::Limited::new(request.into_body(), BODY_BYTES_MAX)
        .collect()
        .await
    else {
        return Ok(answer(StatusCode::PAYLOAD_TOO_LARGE, ""));
    };
    let Some(outcome) = append(&sink, bulk, &body.to_bytes()) else {
        return Ok(answer(StatusCode::BAD_REQUEST, ""));
    };
    Ok(match outcome.await {
        Ok(true) => answer(StatusCode::ACCEPTED, r#"{"status":"queued"}"#),
        _ => answer(StatusCode::SERVICE_UNAVAILABLE, ""),
    })
}

async fn serve(mut connections: mpsc::UnboundedReceiver<std::net::TcpStream>, socket: String) {
    let store = UnixStream::connect(socket).await.expect("connect");
    let sink = Rc::new(Sink {
        open: RefCell::default(),
        ready: Notify::new(),
    });
    let committing = sink.clone();
    tokio::task::spawn_local(async move { committing.commit_forever(store).await });
    while let Some(connection) = connections.recv().await {
        let Ok(connection) = TcpStream::from_std(connection) else {
            continue;
        };
        let sink = sink.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| ingest(sink.clone(), request));
            let _ = hyper::server::conn::http1::Builder::new()
                .pipeline_flush(true)
                .serve_connection(TokioIo::new(connection), service)
                .await;
        });
    }
}

fn main() {
    let port = std::env::var("BENCH_PORT").expect("BENCH_PORT");
    let socket = std::env::var("BENCH_REDIS_SOCKET").expect("BENCH_REDIS_SOCKET");
    let listener = std::net::TcpListener::bind(format!("127.0.0.1:{port}")).expect("bind");
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let socket = socket.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_io()
                    .build()
                    .expect("runtime");
                tokio::task::LocalSet::new().block_on(&runtime, serve(receiver, socket));
            });
            sender
        })
        .collect();
    for (turn, connection) in listener.incoming().enumerate() {
        let Ok(connection) = connection else { continue };
        let _ = connection.set_nodelay(true);
        let _ = connection.set_nonblocking(true);
        let _ = threads[turn % THREADS].send(connection);
    }
}
