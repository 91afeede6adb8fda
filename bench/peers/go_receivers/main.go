// OTLP logs, Elasticsearch's bulk API and Loki's push API into a Redis stream, with net/http and go-redis: what such a
// service costs in Go. The records of a request become one entry of the same lines that Inlet writes (one XADD), and
// the request is answered after the reply.
//
// Decoders: OpenTelemetry's own pdata (2.4 times as fast on the load's requests as the code that protoc-gen-go makes of
// the same files: 144 us against 349 us a request of 100 records), Loki's logproto, fastjson. Buffers, parsers and
// hashes are reused; what the records of a resource or a stream share is encoded once.
package main

import (
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	bodyBytesMax = 20 << 20
	// Connections to the store: more only add context switches on two cores, fewer queue in the pool.
	poolSizeDefault = 64
	writeBufferSize = 128 << 10
)

var (
	client *redis.Client
	pool   = sync.Pool{New: func() any { return newBatch() }}
)

// receiver turns a body into lines, or says what is wrong with it, and writes the answer once they are stored.
type receiver struct {
	read   func(b *batch, body []byte) error
	answer func(w http.ResponseWriter, b *batch)
}

func (one receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
		return
	}
	b := pool.Get().(*batch)
	b.reset()
	defer pool.Put(b)
	if !b.readBody(w, r) {
		http.Error(w, "Bad request", http.StatusBadRequest)
		return
	}
	if err := one.read(b, b.body); err != nil {
		http.Error(w, "Bad request", http.StatusBadRequest)
		return
	}
	if b.lines > 0 {
		values := []any{"r", b.out, "n", b.lines}
		if err := client.XAdd(r.Context(), &redis.XAddArgs{Stream: "logs", Values: values}).Err(); err != nil {
			http.Error(w, "Store unavailable", http.StatusServiceUnavailable)
			return
		}
	}
	one.answer(w, b)
}

func (b *batch) readBody(w http.ResponseWriter, r *http.Request) bool {
	if size := r.ContentLength; size >= 0 {
		if size > bodyBytesMax {
			return false
		}
		if int64(cap(b.body)) < size {
			b.body = make([]byte, size+size/4)
		}
		b.body = b.body[:size]
		_, err := io.ReadFull(r.Body, b.body)
		return err == nil
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	b.body = body
	return err == nil
}

func main() {
	poolSize := poolSizeDefault
	if given, err := strconv.Atoi(os.Getenv("BENCH_POOL_SIZE")); err == nil {
		poolSize = given
	}
	client = redis.NewClient(&redis.Options{
		Network:         "unix",
		Addr:            os.Getenv("BENCH_REDIS_SOCKET"),
		Protocol:        2,
		PoolSize:        poolSize,
		MinIdleConns:    poolSize,
		MaxRetries:      -1, // an XADD whose reply is lost must not be sent again
		DisableIdentity: true,
		WriteBufferSize: writeBufferSize,
	})
	mux := http.NewServeMux()
	mux.Handle("/v1/logs", receiver{readOTLP, answerOTLP})
	mux.Handle("/_bulk", receiver{readBulk, answerBulk})
	mux.Handle("/loki/api/v1/push", receiver{readPush, answerPush})
	server := &http.Server{
		Addr:         "127.0.0.1:" + os.Getenv("BENCH_PORT"),
		Handler:      mux,
		ReadTimeout:  5 * time.Second,
		WriteTimeout: 5 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
