// An open-loop load generator: requests leave at a fixed rate whatever the server does, and each one's latency counts
// from the moment it was due, so a server that stalls is charged for every request that had to wait.
//
// One thread, one epoll, one timerfd that ticks once per request: no garbage and no scheduler between the clock and the
// socket. A request that finds no idle connection waits for one, with its clock running. Linux only. Prints one line of
// JSON; latencies in microseconds.
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"log"
	"math"
	"net"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"
	"unsafe"
)

const (
	clockMonotonic = 1 // CLOCK_MONOTONIC
	epollET        = 1 << 31
	readBytesMax   = 16 << 10
	// How long answers are awaited after the last request was due; what is missing then counts as unanswered.
	drain = 5 * time.Second
)

type conn struct {
	fd   int
	due  time.Duration // when the request in flight should have left
	busy bool
	in   []byte // what has been read of the answer
	out  []byte // what has not been written of the request
}

type run struct {
	conns      []*conn // by file descriptor
	idle       []*conn
	requests   [][]byte // sent in turn, and over again
	status     []byte
	interval   float64
	total      int
	next       int // index of the next request to send
	answered   int
	unexpected int
	latencies  []float64
	late       []float64 // how long after its due time a request left
	start      time.Time
}

type result struct {
	Rate       float64            `json:"rate"`
	Seconds    float64            `json:"seconds"`
	Sent       int                `json:"sent"`
	Answered   int                `json:"answered"`
	Unexpected int                `json:"unexpected"`
	Unanswered int                `json:"unanswered"`
	Latency    map[string]float64 `json:"latency_us"`
	LateP99    float64            `json:"send_late_us_p99"`
}

func connect(address string) *conn {
	plain, err := net.Dial("tcp4", address)
	if err != nil {
		log.Fatal(err)
	}
	file, err := plain.(*net.TCPConn).File()
	if err != nil {
		log.Fatal(err)
	}
	_ = plain.Close()
	fd, err := syscall.Dup(int(file.Fd()))
	if err != nil {
		log.Fatal(err)
	}
	_ = file.Close()
	_ = syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	_ = syscall.SetNonblock(fd, true)
	return &conn{fd: fd, in: make([]byte, 0, readBytesMax)}
}

// due is when request i should leave, from the start.
func (r *run) due(i int) time.Duration { return time.Duration(float64(i) * r.interval) }

func (r *run) sendDue(now time.Duration) {
	for r.next < r.total && len(r.idle) > 0 && r.due(r.next) <= now {
		c := r.idle[0] // the longest idle, so that the load spreads over all connections
		r.idle = r.idle[1:]
		c.due, c.busy, c.out = r.due(r.next), true, r.requests[r.next%len(r.requests)]
		r.late = append(r.late, micros(now-c.due))
		r.next++
		c.write()
	}
}

func (c *conn) write() {
	for len(c.out) > 0 {
		n, err := syscall.Write(c.fd, c.out)
		if err == syscall.EAGAIN {
			return
		}
		if err != nil {
			log.Fatalf("write: %v", err)
		}
		c.out = c.out[n:]
	}
}

var (
	headEnd = []byte("\r\n\r\n")
	lengths = [][]byte{[]byte("\r\nContent-Length: "), []byte("\r\ncontent-length: ")}
	chunked = []byte("chunked\r\n")
	lastOne = []byte("0\r\n\r\n")
)

// whole tells whether the bytes read so far are one answer.
func whole(in []byte) bool {
	head := bytes.Index(in, headEnd)
	if head < 0 {
		return false
	}
	for _, name := range lengths {
		if at := bytes.Index(in[:head+2], name); at >= 0 {
			value := in[at+len(name):]
			length, err := strconv.Atoi(string(value[:bytes.IndexByte(value, '\r')]))
			if err != nil {
				log.Fatalf("Content-Length: %v", err)
			}
			return len(in) >= head+len(headEnd)+length
		}
	}
	if bytes.Contains(in[:head+2], chunked) {
		return bytes.HasSuffix(in[head:], lastOne)
	}
	return true
}

func (r *run) readable(c *conn, clock func() time.Duration) {
	for {
		n, err := syscall.Read(c.fd, c.in[len(c.in):cap(c.in)])
		if err == syscall.EAGAIN {
			return
		}
		if err != nil || n == 0 {
			log.Fatalf("the server closed a connection (read %d, %v)", n, err)
		}
		c.in = c.in[:len(c.in)+n]
		if !c.busy || !whole(c.in) {
			continue
		}
		r.latencies = append(r.latencies, micros(clock()-c.due))
		r.answered++
		if !bytes.HasPrefix(c.in, r.status) {
			r.unexpected++
		}
		c.in, c.busy = c.in[:0], false
		r.idle = append(r.idle, c)
		return // a server that follows HTTP sends no more until it is asked
	}
}

func (r *run) loop() {
	epoll, err := syscall.EpollCreate1(0)
	if err != nil {
		log.Fatal(err)
	}
	timer, _, errno := syscall.Syscall(syscall.SYS_TIMERFD_CREATE, clockMonotonic, syscall.O_NONBLOCK, 0)
	if errno != 0 {
		log.Fatal(errno)
	}
	add := func(fd int, events uint32) {
		event := syscall.EpollEvent{Events: events, Fd: int32(fd)}
		if err := syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, fd, &event); err != nil {
			log.Fatal(err)
		}
	}
	for _, c := range r.idle {
		add(c.fd, syscall.EPOLLIN|syscall.EPOLLOUT|epollET)
	}
	add(int(timer), syscall.EPOLLIN)
	tick := [4]int64{0, int64(r.interval), 0, int64(r.interval)}
	if tick[1] >= 1e9 {
		tick = [4]int64{1, 0, 1, 0}
	}
	r.start = time.Now()
	if _, _, errno := syscall.Syscall6(syscall.SYS_TIMERFD_SETTIME, timer, 0, uintptr(unsafe.Pointer(&tick)), 0, 0, 0); errno != 0 {
		log.Fatal(errno)
	}
	clock := func() time.Duration { return time.Since(r.start) }
	end := r.due(r.total) + drain
	events := make([]syscall.EpollEvent, 1024)
	var ticks [8]byte
	for r.answered < r.total {
		n, err := syscall.EpollWait(epoll, events, 100)
		if err != nil && err != syscall.EINTR {
			log.Fatal(err)
		}
		for i := range max(n, 0) {
			fd := int(events[i].Fd)
			if fd == int(timer) {
				_, _ = syscall.Read(fd, ticks[:]) // a periodic timer goes on only once it is read
				continue
			}
			r.conns[fd].write()
			r.readable(r.conns[fd], clock)
		}
		now := clock()
		if now > end {
			return
		}
		r.sendDue(now)
	}
}

// readRequests reads the whole file beforehand, so that nothing but an index is between the clock and the socket.
func readRequests(path string) [][]byte {
	rest, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}
	var requests [][]byte
	for len(rest) > 0 {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		length, err := strconv.Atoi(string(line))
		if err != nil || length > len(after) {
			log.Fatalf("%s is not a file of requests: %q", path, line[:min(len(line), 80)])
		}
		requests = append(requests, after[:length:length])
		rest = after[length:]
	}
	if len(requests) == 0 {
		log.Fatalf("%s holds no request", path)
	}
	return requests
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// percentile of a sorted list, nearest rank.
func percentile(sorted []float64, share float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	rank := int(math.Ceil(share * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

func main() {
	address := flag.String("address", "", "host:port")
	rate := flag.Float64("rate", 1000, "requests a second")
	seconds := flag.Float64("seconds", 5, "how long")
	connections := flag.Int("connections", 64, "how many")
	status := flag.Int("status", 202, "the status of an answer as expected")
	requestsFile := flag.String("requests", "", "file of requests: of each its length in decimal, a newline, its bytes")
	flag.Parse()
	runtime.LockOSThread()
	// Timer slack of the thread, nanoseconds: the default lets a tick come 50 us late (PR_SET_TIMERSLACK, prctl(2)).
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, 29, 1, 0)

	r := &run{
		requests: readRequests(*requestsFile),
		status:   []byte("HTTP/1.1 " + strconv.Itoa(*status) + " "),
		interval: 1e9 / *rate,
		total:    int(*rate * *seconds),
	}
	r.latencies = make([]float64, 0, r.total)
	r.late = make([]float64, 0, r.total)
	for range *connections {
		c := connect(*address)
		for len(r.conns) <= c.fd {
			r.conns = append(r.conns, nil)
		}
		r.conns[c.fd] = c
		r.idle = append(r.idle, c)
	}
	r.loop()
	now := time.Since(r.start)
	unanswered := r.total - r.answered
	for _, c := range r.conns { // a request without an answer waited at least until now
		if c != nil && c.busy {
			r.latencies = append(r.latencies, micros(now-c.due))
		}
	}
	for ; r.next < r.total; r.next++ { // one that never left, too
		r.latencies = append(r.latencies, micros(now-r.due(r.next)))
	}
	slices.Sort(r.latencies)
	slices.Sort(r.late)
	if len(r.latencies) == 0 {
		log.Fatal("no request was sent: rate x seconds is under 1")
	}
	latency := map[string]float64{"max": r.latencies[len(r.latencies)-1]}
	for name, share := range map[string]float64{"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999} {
		latency[name] = percentile(r.latencies, share)
	}
	_ = json.NewEncoder(os.Stdout).Encode(result{
		Rate: *rate, Seconds: *seconds, Sent: len(r.late), Answered: r.answered, Unexpected: r.unexpected,
		Unanswered: unanswered, Latency: latency, LateP99: percentile(r.late, 0.99),
	})
}
