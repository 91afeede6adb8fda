//! axum + serde + redis-rs: a record is checked by reading it (strings borrowed, `Cow` where escaped), then its bytes are
//! stored with one XADD over a multiplexed connection, and 202 is sent after the reply. A bulk (NDJSON) is one pipeline
//! of one XADD a record.

use std::borrow::Cow;
use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{header, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::Router;
use redis::aio::MultiplexedConnection;
use serde::Deserialize;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY_BYTES_MAX: usize = 8 << 20;

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

fn xadd(record: &[u8]) -> redis::Cmd {
    let mut command = redis::cmd("XADD");
    command.arg("logs").arg("*").arg("r").arg(record);
    command
}

async fn store(connection: &mut MultiplexedConnection, body: &[u8]) -> redis::RedisResult<()> {
    xadd(body).exec_async(connection).await
}

async fn store_bulk(connection: &mut MultiplexedConnection, lines: &[&[u8]]) -> redis::RedisResult<()> {
    let mut pipeline = redis::Pipeline::with_capacity(lines.len());
    for line in lines {
        pipeline.add_command(xadd(line)).ignore();
    }
    pipeline.exec_async(connection).await
}

async fn ingest(State(mut connection): State<MultiplexedConnection>, headers: HeaderMap, body: Bytes) -> Response {
    let bulk = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/x-ndjson"));
    let stored = if bulk {
        let mut lines = Vec::new();
        let mut start = 0;
        for stop in memchr::memchr_iter(b'\n', &body).chain(std::iter::once(body.len())) {
            let line = &body[start..stop];
            start = stop + 1;
            if line.is_empty() {
                continue;
            }
            if !valid(line) {
                return StatusCode::BAD_REQUEST.into_response();
            }
            lines.push(line);
        }
        store_bulk(&mut connection, &lines).await
    } else {
        if !valid(&body) {
            return StatusCode::BAD_REQUEST.into_response();
        }
        store(&mut connection, &body).await
    };
    if stored.is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    (
        StatusCode::ACCEPTED,
        [(header::CONTENT_TYPE, "application/json")],
        r#"{"status":"queued"}"#,
    )
        .into_response()
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let port = std::env::var("BENCH_PORT").expect("BENCH_PORT");
    let socket = std::env::var("BENCH_REDIS_SOCKET").expect("BENCH_REDIS_SOCKET");
    let client = redis::Client::open(format!("unix://{socket}")).expect("client");
    let config = redis::AsyncConnectionConfig::new()
        .set_response_timeout(Some(std::time::Duration::from_secs(5)))
        .set_pipeline_buffer_size(4096);
    let connection = client
        .get_multiplexed_async_connection_with_config(&config)
        .await
        .expect("connect");
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .expect("bind");
    let app = Router::new()
        .route("/ingest", post(ingest))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(connection);
    axum::serve(listener, app).await.expect("serve");
}
