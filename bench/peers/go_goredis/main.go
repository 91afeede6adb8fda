// net/http + encoding/json + go-redis: a record is checked by decoding it, then its bytes are stored with one XADD,
// and 202 is sent after the reply. A bulk (NDJSON) is one pipeline of one XADD a record.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	bodyBytesMax = 8 << 20
	// Connections to the store: more only add context switches on two cores, fewer queue in the pool.
	poolSizeDefault = 64
)

type payload struct {
	EventID   string            `json:"event_id"`
	Timestamp time.Time         `json:"timestamp"`
	Service   string            `json:"service"`
	Message   string            `json:"message"`
	Metadata  map[string]string `json:"metadata"`
}

var (
	client  *redis.Client
	queued  = []byte(`{"status":"queued"}`)
	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

func valid(line []byte) bool {
	var p payload
	return json.Unmarshal(line, &p) == nil && p.EventID != "" && p.Service != "" && !p.Timestamp.IsZero()
}

func store(ctx context.Context, body []byte) error {
	return client.XAdd(ctx, &redis.XAddArgs{Stream: "logs", Values: []any{"r", body}}).Err()
}

func storeBulk(ctx context.Context, lines [][]byte) error {
	_, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for _, line := range lines {
			pipe.XAdd(ctx, &redis.XAddArgs{Stream: "logs", Values: []any{"r", line}})
		}
		return nil
	})
	return err
}

func ingest(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
		return
	}
	buffer := buffers.Get().(*bytes.Buffer)
	buffer.Reset()
	defer buffers.Put(buffer)
	if _, err := buffer.ReadFrom(http.MaxBytesReader(w, r.Body, bodyBytesMax)); err != nil {
		http.Error(w, "Bad request", http.StatusBadRequest)
		return
	}
	body := buffer.Bytes()
	var err error
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-ndjson") {
		var lines [][]byte
		for line := range bytes.SplitSeq(body, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			if !valid(line) {
				http.Error(w, "Bad request", http.StatusBadRequest)
				return
			}
			lines = append(lines, line)
		}
		err = storeBulk(r.Context(), lines)
	} else {
		if !valid(body) {
			http.Error(w, "Bad request", http.StatusBadRequest)
			return
		}
		err = store(r.Context(), body)
	}
	if err != nil {
		http.Error(w, "Store unavailable", http.StatusServiceUnavailable)
		return
	}
	w.Header()["Content-Type"] = []string{"application/json"}
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(queued)
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
	})
	mux := http.NewServeMux()
	mux.HandleFunc("/ingest", ingest)
	server := &http.Server{
		Addr:         "127.0.0.1:" + os.Getenv("BENCH_PORT"),
		Handler:      mux,
		ReadTimeout:  5 * time.Second,
		WriteTimeout: 5 * time.Second,
	}
	log.Fatal(server.ListenAndServe())
}
