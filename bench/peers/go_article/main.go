// The Go service of the article, written anew: decode, do nothing, answer 202. It stores nothing.
package main

import (
	"encoding/json"
	"log"
	"net/http"
	"os"
	"time"
)

type payload struct {
	EventID   string            `json:"event_id"`
	Timestamp time.Time         `json:"timestamp"`
	Service   string            `json:"service"`
	Message   string            `json:"message"`
	Metadata  map[string]string `json:"metadata"`
}

// process is where a real service would send the record on.
func process(*payload) {}

func ingest(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		http.Error(w, "Method not allowed", http.StatusMethodNotAllowed)
		return
	}
	var p payload
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		http.Error(w, "Bad request", http.StatusBadRequest)
		return
	}
	process(&p)
	w.WriteHeader(http.StatusAccepted)
	_, _ = w.Write([]byte(`{"status":"queued"}`))
}

func main() {
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
