// net/http + encoding/json + rueidis: as go_goredis, but concurrent requests share connections and are pipelined by the
// client by itself. Still one XADD a record, 202 after its reply.
package main

import (
	"bytes"
	"encoding/json"
	"log"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/redis/rueidis"
)

const bodyBytesMax = 8 << 20

type payload struct {
	EventID   string            `json:"event_id"`
	Timestamp time.Time         `json:"timestamp"`
	Service   string            `json:"service"`
	Message   string            `json:"message"`
	Metadata  map[string]string `json:"metadata"`
}

var (
	client  rueidis.Client
	queued  = []byte(`{"status":"queued"}`)
	buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

func ingest(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
		return
	}
	buffer := buffers.Get().(*bytes.Buffer)
	buffer.Reset()
	if _, err := buffer.ReadFrom(http.MaxBytesReader(w, r.Body, bodyBytesMax)); err != nil {
		http.Error(w, "Bad request", http.StatusBadRequest)
		return
	}
	var p payload
	if json.Unmarshal(buffer.Bytes(), &p) != nil || p.EventID == "" || p.Service == "" || p.Timestamp.IsZero() {
		http.Error(w, "Bad request", http.StatusBadRequest)
		return
	}
	// BinaryString does not copy: the buffer goes back to the pool only once the reply is here.
	record := rueidis.BinaryString(buffer.Bytes())
	err := client.Do(r.Context(), client.B().Xadd().Key("logs").Id("*").FieldValue().FieldValue("r", record).Build()).Error()
	if err != nil {
		// Not returned to the pool: a cancelled request's command may still be in the client's queue.
		http.Error(w, "Store unavailable", http.StatusServiceUnavailable)
		return
	}
	buffers.Put(buffer)
	w.Header()["Content-Type"] = []string{"application/json"}
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write(queued)
}

func main() {
	option, err := rueidis.ParseURL("unix://" + os.Getenv("BENCH_REDIS_SOCKET"))
	if err != nil {
		log.Fatal(err)
	}
	option.DisableCache = true
	option.DisableRetry = true // an XADD whose reply is lost must not be sent again
	option.AlwaysPipelining = true
	option.PipelineMultiplex = -1 // one connection: fewer, longer writes cost least on two cores
	if client, err = rueidis.NewClient(option); err != nil {
		log.Fatal(err)
	}
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
