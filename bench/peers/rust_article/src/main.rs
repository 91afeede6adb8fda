//! The Rust service of the article, written anew: axum, strings borrowed from the body, answer 202. It stores nothing.
//!
//! axum's `Json<T>` wants an owned `T`, so the body is taken as `Bytes` and read with serde, with the same statuses.
//! Borrowed `&str` fails on strings with escapes; that is the article's choice (the other Rust peers take `Cow`).

use std::collections::HashMap;

use axum::body::Bytes;
use axum::http::{header, HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::Router;
use serde::Deserialize;

#[derive(Deserialize)]
#[allow(dead_code)]
struct Payload<'a> {
    event_id: &'a str,
    timestamp: String,
    service: &'a str,
    message: &'a str,
    #[serde(borrow)]
    metadata: HashMap<&'a str, &'a str>,
}

/// Where a real service would send the record on.
fn process(_: &Payload<'_>) {}

async fn ingest(headers: HeaderMap, body: Bytes) -> Response {
    let json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/json"));
    if !json {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    match serde_json::from_slice::<Payload>(&body) {
        Ok(payload) => {
            process(&payload);
            (
                StatusCode::ACCEPTED,
                [(header::CONTENT_TYPE, "application/json")],
                r#"{"status":"queued"}"#,
            )
                .into_response()
        }
        Err(error) if error.is_data() => StatusCode::UNPROCESSABLE_ENTITY.into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let port = std::env::var("BENCH_PORT").expect("BENCH_PORT");
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}"))
        .await
        .expect("bind");
    let app = Router::new().route("/ingest", post(ingest));
    axum::serve(listener, app).await.expect("serve");
}
